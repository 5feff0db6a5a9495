"""A trained T5-VAE as a map from texts to codes and back."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Float, Int

from flaxae.lm.t5.modeling import EOS, PAD
from flaxae.models.t5_vae.modeling import T5VAE
from flaxae.task import Context

ROWS = 128  # rows of one call; the last call is padded to it, so nothing compiles twice


@partial(jax.jit, static_argnums=0)
def _encode(graphdef: Any, state: Any, ids: Any, ctx_parts: Any) -> Any:
    model = nnx.merge(graphdef, state)
    return model.encode([ids], _context(*ctx_parts))


@partial(jax.jit, static_argnums=(0, 4))
def _generate(graphdef: Any, state: Any, z: Any, ctx_parts: Any, num_tokens: int) -> Any:
    model = nnx.merge(graphdef, state)
    return model.generate(z, _context(*ctx_parts), num_tokens)


def _context(key: Any, step: Any) -> Context:
    return Context(key=key, step=step)


class Codec:
    """Texts to codes and back, in batches of a fixed size."""

    def __init__(self, model: T5VAE, tokenizer: Any, step: Any):
        """Takes a model apart once.

        Args:
            model: a trained T5VAE.
            tokenizer: its tokenizer.
            step: train step of its parameters, for what is on a schedule.
        """
        self.graphdef, self.state = nnx.split(model)
        self.tokenizer, self.max_length = tokenizer, model.max_length
        self.num_latents, self.dim = model.latent.num_latents, model.latent.dim
        self.ctx_parts = (jax.random.key(0), jnp.asarray(step, jnp.int32))
        self.scale = float(model.clean_code(jnp.ones((1, 1, 1)), self.ctx_parts[1])[0, 0, 0])
        self.sigma = float(model.sigma(self.ctx_parts[1]))

    def ids(self, texts: list[str]) -> Int[np.ndarray, "B T"]:
        """Ids with EOS, cut to max_length, padded with 0."""
        out = np.full((len(texts), self.max_length), PAD, np.int32)
        for row, tokens in zip(out, self.tokenizer.encode(texts), strict=True):
            tokens = [*tokens[: self.max_length - 1], EOS]
            row[: len(tokens)] = tokens
        return out

    def encode(self, texts: list[str]) -> Float[np.ndarray, "B L Z"]:
        """Clean codes, without noise or scale."""
        return self.encode_ids(self.ids(texts))

    def encode_ids(self, ids: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B L Z"]:
        return self._batched(lambda x: _encode(self.graphdef, self.state, x, self.ctx_parts), ids)

    def generate(self, z: Float[np.ndarray, "B L Z"]) -> Int[np.ndarray, "B T"]:
        """Greedy ids of codes, taken as they are."""
        z = np.asarray(z, np.float32).reshape(len(z), self.num_latents, self.dim)
        size = self.tokenizer.vocab_size
        call = lambda x: _generate(self.graphdef, self.state, x, self.ctx_parts, size)  # noqa: E731
        return self._batched(call, z)

    def decode(self, z: Float[np.ndarray, "B L Z"]) -> list[str]:
        """Texts of clean codes (scaled here to what the decoder expects)."""
        return self.texts(self.generate(z * np.float32(self.scale)))

    def texts(self, ids: Int[np.ndarray, "B T"]) -> list[str]:
        return self.tokenizer.decode([[int(i) for i in row] for row in ids])

    def _batched(self, call: Any, rows: np.ndarray) -> np.ndarray:
        out = []
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            padded = np.concatenate([part, np.repeat(part[-1:], ROWS - len(part), axis=0)])
            out.append(_host(call(padded))[: len(part)])
        return np.concatenate(out)


def _host(x: jax.Array) -> np.ndarray:
    if not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)
