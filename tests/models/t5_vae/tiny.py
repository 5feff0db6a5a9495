"""A tiny T5-VAE and data for it."""

import string
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxae.config import Config, LogConfig, OptimConfig, SaveConfig, set_field
from flaxae.data.config import TextDataConfig
from flaxae.lm.t5.modeling import T5Config
from flaxae.models.t5_vae.bottlenecks import LatentConfig
from flaxae.models.t5_vae.task import T5VAEConfig, T5VAETask
from flaxae.text_autoencoder.kl import NEVER

LENGTHS = (4, 8)


def tiny_config(**overrides: Any) -> Config:
    """Return a config; overrides are dotted fields with "__" for the dot."""
    t5 = T5Config(d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=2, num_decoder_layers=2)
    config = Config(
        task=T5VAEConfig(t5=t5, latent=LatentConfig(dim=8, memory_tokens=4), mmd_weight=1.0),
        data=TextDataConfig(batch_size=8, num_buckets=2, max_length=8, vocab_size=40),
        optim=OptimConfig(lr=1e-2),
        log=LogConfig(every=1, tensorboard=False, progress=False),
        save=SaveConfig(every=10),
        steps=10,
    )
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config


class Letters:
    """A tokenizer of single letters."""

    vocab_size = 3 + 26

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[3 + string.ascii_lowercase.index(c) for c in text] for text in texts]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        out = []
        for row in ids:
            row = list(row)
            row = row[: row.index(1)] if 1 in row else row
            out.append("".join(string.ascii_lowercase[i - 3] for i in row if i > 2))
        return out


class LetterData:
    """A stand-in for the result of `text_sources`, without a corpus."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        lines = ["".join(rng.choice(list("abcdef"), size=n)) for n in rng.integers(2, 8, 40)]
        self.tokenizer, self.splits = Letters(), {"train": lines[:20], "dev": lines[20:]}
        self.overlap = {"dev": 0.25}

    def lines(self, split: str) -> list[str]:
        return self.splits[split]

    def source(self, split: str) -> Any:
        return type("Source", (), {"skipped": 0})()


def tiny_task(**overrides: Any) -> T5VAETask:
    config = tiny_config(**overrides)
    config.freeze()
    task: Any = T5VAETask(config)
    task.text = LetterData()
    return task


def tiny_model(task: T5VAETask, seed: int = 0) -> Any:
    """Return the task's model, initialised by numpy because compiling `init` is slow."""
    rng = np.random.default_rng(seed)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))))

    def draw(path: Any, leaf: Any) -> Any:
        name, shape = jax.tree_util.keystr(path), leaf.shape
        if "'scale'" in name or "cross_gate" in name:
            return jnp.ones(shape)
        if "progress" in name:
            return jnp.asarray([0.0, 0.0, NEVER])
        if "capacity" in name:
            return jnp.full(shape, 0.5 if "sigma" in name else 0.0)
        std = 1.0 if "table" in name or len(shape) < 2 else np.prod(shape[-2:-1]) ** -0.5
        std = 0.25 * std if "'q'" in name else std
        return jnp.asarray(std * rng.normal(size=shape), jnp.float32)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(draw, state))


def batch(seed: int = 0, rows: int = 4) -> dict[str, Any]:
    """Return random texts of each length."""
    rng = np.random.default_rng(seed)
    out = {}
    for length in LENGTHS:
        ids = rng.integers(3, 29, size=(rows, length)).astype(np.int32)
        for row in ids:
            end = rng.integers(1, length)
            row[end], row[end + 1 :] = 1, 0
        out[f"{length:03d}"] = {"ids": ids, "weight": np.ones(rows, np.float32)}
    return out
