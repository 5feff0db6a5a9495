"""A text autoencoder in one file: a linear map from bytes to a code, and a linear map back.

Train it, and explore what was trained; no file of flaxae refers to it:

    python train.py --config=tests/explore/toy_autoencoder.py --workdir=runs/toy
    python -m flaxae.explore runs/toy --config=tests/explore/toy_autoencoder.py
"""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config import Config, DataConfig, OptimConfig, TaskConfig
from flaxae.data.config import TextDataConfig, text_data
from flaxae.data.hub import TextData, text_sources
from flaxae.losses import cross_entropy
from flaxae.task import Context, Loss, Task
from flaxae.text_autoencoder.api import TextAutoencoder

PAD = 0  # the id that pads texts
VOCAB = 384  # ids of the tokenizer "byt5"


class Toy(nnx.Module):
    """The module; its methods are those of `flaxae.text_autoencoder.protocol.LatentModel`."""

    num_latents, vocab_size = 1, VOCAB

    def __init__(self, max_length: int, dim: int, rngs: nnx.Rngs):
        self.max_length, self.dim = max_length, dim
        init = jax.nn.initializers.lecun_normal()
        self.read = nnx.Param(init(rngs.params(), (max_length * VOCAB, dim)))
        self.write = nnx.Param(init(rngs.params(), (dim, max_length * VOCAB)))

    def encode(self, ids: list[Int[Array, "B S"]], ctx: Context) -> Float[Array, "B 1 Z"]:
        padded = [jnp.pad(x, ((0, 0), (0, self.max_length - x.shape[1]))) for x in ids]
        letters = jax.nn.one_hot(jnp.concatenate(padded), VOCAB)  # (B, T, V)
        return (rearrange(letters, "b t v -> b (t v)") @ self.read[...])[:, None]

    def logits(self, z: Float[Array, "B 1 Z"]) -> Float[Array, "B T V"]:
        return rearrange(z[:, 0] @ self.write[...], "b (t v) -> b t v", t=self.max_length)

    def generate(self, z, ctx, num_tokens=0, *, sampling=None, drop_ended=False):
        return self.logits(z).argmax(-1)  # (B, T)

    def clean_code(self, z, step):
        return z

    def sigma(self, step):
        return jnp.float32(0)


@dataclasses.dataclass
class ToyConfig(TaskConfig):
    data_class: ClassVar[type[DataConfig]] = TextDataConfig

    dim: int = 8  # numbers per code

    def make(self, config: Config) -> "ToyTask":
        return ToyTask(config)

    @classmethod
    def open_autoencoder(cls, source) -> "ToyAutoencoder":
        return ToyAutoencoder.from_pretrained(source, cls)


class ToyTask(Task):
    """The training: cross entropy of the decoded bytes."""

    def __init__(self, config: Config):
        self.config = config

    @cached_property
    def text(self) -> TextData:
        return text_sources(text_data(self.config))

    def data(self, split: str):
        return self.text.source(split)

    def save_assets(self, workdir: str) -> None:
        self.text.tokenizer.save(Path(workdir) / "tokenizer.json")

    def init(self, rngs: nnx.Rngs) -> Toy:
        return Toy(text_data(self.config).max_length, self.config.task.dim, rngs)

    def loss(self, model: Toy, batch, ctx: Context) -> Loss:
        (bucket,) = batch.values()  # data.num_buckets is 1
        ids, rows = bucket["ids"], bucket["weight"]  # (B, S), (B,)
        logits = model.logits(model.encode([ids], ctx))[:, : ids.shape[1]]  # (B, S, V)
        weights = jnp.where(ids != PAD, rows[:, None], 0.0)  # (B, S)
        total, correct = cross_entropy(
            rearrange(logits, "b s v -> (b s) v"), ids.ravel(), weights.ravel()
        )
        return Loss(total, weights.sum(), {"accuracy": (correct, weights.sum())})


class ToyAutoencoder(TextAutoencoder):
    """The class that users load; everything else is inherited."""

    family, model_class = "toy", Toy

    def card(self) -> str:
        return "# A toy autoencoder\n"


def get_config() -> Config:
    return Config(
        task=ToyConfig(),
        data=TextDataConfig(tokenizer="byt5", max_length=24, max_lines=2000, num_buckets=1),
        optim=OptimConfig(lr=1e-2),
        steps=200,
    )
