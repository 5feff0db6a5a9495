"""A text autoencoder in one file: a linear map from bytes to a code, and a linear map back.

Train it, and explore what was trained; no file of flaxae knows of it:

    python train.py --config=tests/explore/toy_autoencoder.py --workdir=runs/toy
    python -m flaxae.explore runs/toy --config=tests/explore/toy_autoencoder.py
"""

import dataclasses
from functools import cached_property
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

import flaxae
from flaxae.config import Config, DataConfig, OptimConfig, TaskConfig
from flaxae.data.config import TextDataConfig, text_data
from flaxae.data.hub import TextData, text_sources
from flaxae.losses import cross_entropy
from flaxae.storage.fingerprint import fingerprint
from flaxae.task import Context, Loss, Task
from flaxae.text_autoencoder.priors import Prior, StandardNormal, fit

VOCAB, PAD, EOS = 384, 0, 1  # ids of the tokenizer "byt5"


class Toy(nnx.Module):
    """Two linear maps; a code is one latent vector."""

    def __init__(self, length: int, dim: int, rngs: nnx.Rngs):
        self.length, self.dim = length, dim
        init = jax.nn.initializers.lecun_normal()
        self.read = nnx.Param(init(rngs.params(), (length * VOCAB, dim)))
        self.write = nnx.Param(init(rngs.params(), (dim, length * VOCAB)))

    def encode(self, ids: Int[Array, "B T"]) -> Float[Array, "B Z"]:
        letters = jax.nn.one_hot(ids, VOCAB)  # (B, T, V)
        return rearrange(letters, "b t v -> b (t v)") @ self.read[...]

    def decode(self, z: Float[Array, "B Z"]) -> Float[Array, "B T V"]:
        return rearrange(z @ self.write[...], "b (t v) -> b t v", t=self.length)


@dataclasses.dataclass
class ToyConfig(TaskConfig):
    data_class: ClassVar[type[DataConfig]] = TextDataConfig

    dim: int = 8  # numbers per code

    def make(self, config: Config) -> "ToyTask":
        return ToyTask(config)

    @classmethod
    def open_autoencoder(cls, source) -> "ToyAutoencoder":
        return ToyAutoencoder(flaxae.load(source, cls))


class ToyTask(Task):
    def __init__(self, config: Config):
        self.config = config

    @cached_property
    def text(self) -> TextData:
        return text_sources(text_data(self.config))

    def data(self, split: str):
        return self.text.source(split)

    def init(self, rngs: nnx.Rngs) -> Toy:
        return Toy(text_data(self.config).max_length, self.config.task.dim, rngs)

    def loss(self, model: Toy, batch, ctx: Context) -> Loss:
        (bucket,) = batch.values()  # data.num_buckets is 1
        ids, rows = bucket["ids"], bucket["weight"]  # (B, S), (B,)
        ids = jnp.pad(ids, ((0, 0), (0, model.length - ids.shape[1])))
        logits = rearrange(model.decode(model.encode(ids)), "b t v -> (b t) v")
        weights = rearrange(jnp.where(ids != PAD, rows[:, None], 0.0), "b t -> (b t)")
        total, correct = cross_entropy(logits, rearrange(ids, "b t -> (b t)"), weights)
        return Loss(total, weights.sum(), {"accuracy": (correct, weights.sum())})


class ToyAutoencoder:
    """What a user of the trained model calls: `flaxae.text_autoencoder.protocol.Autoencoder`."""

    num_latents = 1

    def __init__(self, run):
        self.model, self.text, self.step = run.model, run.task.text, run.step
        self.dim, self.max_length = self.model.dim, self.model.length
        self.tokenizer = self.text.tokenizer
        self.fingerprint = fingerprint(nnx.state(self.model, nnx.Param))

    def encode(self, texts, *, truncate: bool = False) -> Float[np.ndarray, "B 1 Z"]:
        ids = np.full((len(texts), self.max_length), PAD, np.int32)
        for row, tokens in zip(ids, self.tokenizer.encode(list(texts)), strict=True):
            row[: len(tokens) + 1] = [*tokens, EOS]
        return np.asarray(self.model.encode(jnp.asarray(ids)))[:, None]

    def decode(self, z: Float[np.ndarray, "B 1 Z"]) -> list[str]:
        ids = np.asarray(self.model.decode(jnp.asarray(z[:, 0])).argmax(-1))
        return self.tokenizer.decode([row.tolist() for row in ids])

    def training_texts(self) -> list[str]:
        return self.text.lines("train")

    @cached_property
    def codes(self) -> Float[np.ndarray, "n 1 Z"]:
        return self.encode(self.training_texts())

    @cached_property
    def statistics(self):
        return Statistics(self.codes.mean(0), self.codes.std(0))

    def prior(self, which: str | None = None) -> Prior:
        if which in (None, "normal"):
            return StandardNormal(self.dim)
        return fit(which, self.codes)


@dataclasses.dataclass
class Statistics:
    mean: Float[np.ndarray, "1 Z"]
    std: Float[np.ndarray, "1 Z"]


def get_config() -> Config:
    return Config(
        task=ToyConfig(),
        data=TextDataConfig(tokenizer="byt5", max_length=24, max_lines=2000, num_buckets=1),
        optim=OptimConfig(lr=1e-2),
        steps=200,
    )
