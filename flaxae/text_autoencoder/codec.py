"""The engine of a trained T5-VAE: texts, ids and codes, in batches of a few fixed sizes.

It trusts its input; `flaxae.T5VAE` checks what people give.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Float, Int

from flaxae.data.tokens import TokenTable
from flaxae.decoding import Sampling
from flaxae.lm.t5.modeling import PAD
from flaxae.models.t5_vae.modeling import T5VAE
from flaxae.task import Context

# A call's rows and lengths are padded to the next of these: what compiles is bounded by their
# number, whatever sizes come.
ROWS = (8, 32, 64, 128)
SHORTEST = 8
FEW = 32  # texts that are encoded in one call; more are sorted into calls of one length each


@partial(jax.jit, static_argnums=0)
def _encode(graphdef: Any, state: Any, ids: Any, step: Any) -> Any:
    model = nnx.merge(graphdef, state)
    return model.encode([ids], Context(key=jax.random.key(0), step=step))


@partial(jax.jit, static_argnums=(0, 4))
def _generate(
    graphdef: Any, state: Any, z: Any, step: Any, num_tokens: int, sampling: Any, seed: Any
) -> Any:
    model = nnx.merge(graphdef, state)
    key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
    ctx = Context(key=key, step=step)
    return model.generate(z, ctx, num_tokens, sampling=sampling, drop_ended=True)


class Codec:
    """Texts to codes and back.

    Attributes:
        scale: what clean codes are multiplied by before they are decoded.
        sigma: the standard deviation of the noise that the decoder was trained with.
    """

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
        self.step = jnp.asarray(step, jnp.int32)
        self.scale = float(model.clean_code(jnp.ones((1, 1, 1)), self.step)[0, 0, 0])
        self.sigma = float(model.sigma(self.step))
        self.lengths = lengths_to(model.max_length)
        devices = {d for x in jax.tree.leaves(self.state) for d in x.devices()}
        self.side_by_side = len(devices) == 1 and devices.pop().platform == "cpu"
        self._compiled: set[Any] = set()

    def ids(self, texts: list[str]) -> Int[np.ndarray, "B T"]:
        """Ids with EOS, cut to max_length, padded with 0."""
        table = TokenTable.of(self.tokenizer.encode(texts))
        return table.padded(np.arange(len(table)), self.max_length)

    def encode(self, texts: list[str]) -> Float[np.ndarray, "B L Z"]:
        """Clean codes, without noise or scale."""
        return self.encode_ids(self.ids(texts))

    def encode_ids(self, ids: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B L Z"]:
        """Clean codes of ids as `ids` gives them, or cut after their longest row."""
        out = np.empty((len(ids), self.num_latents, self.dim), np.float32)
        counts = np.where(ids != PAD, np.arange(1, ids.shape[1] + 1), 1).max(1, initial=1)
        lengths = np.asarray(self.lengths)[np.searchsorted(self.lengths, counts)]
        if 0 < len(ids) <= FEW:
            lengths[:] = lengths.max()
        groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        parts = [group[part] for group in groups for part in _parts(len(group))]

        def call(rows: np.ndarray) -> jax.Array:
            some = np.full((len(rows), lengths[rows[0]]), PAD, np.int32)
            width = min(some.shape[1], ids.shape[1])
            some[:, :width] = ids[rows, :width]
            return _encode(self.graphdef, self.state, _padded(some), self.step)

        self._run(call, parts, out, lambda rows: lengths[rows[0]])
        return out

    def generate(
        self, z: Float[np.ndarray, "B L Z"], sampling: Sampling | None = None, seed: int = 0
    ) -> Int[np.ndarray, "B T"]:
        """Ids of codes, taken as they are.

        Args:
            z: codes, as the decoder expects them: clean ones times `scale`.
            sampling: how ids are chosen; None: greedy.
            seed: of what is drawn.
        """
        z = np.asarray(z, np.float32).reshape(len(z), self.num_latents, self.dim)
        out = np.empty((len(z), self.max_length), np.int32)

        def call(rows: np.ndarray) -> jax.Array:
            return _generate(
                self.graphdef,
                self.state,
                _padded(z[rows]),
                self.step,
                self.tokenizer.vocab_size,
                sampling or Sampling(),
                np.asarray([seed, rows[0]], np.uint32),
            )

        parts = [np.arange(len(z))[part] for part in _parts(len(z))]
        kind = jax.tree.structure(sampling or Sampling())
        self._run(call, parts, out, lambda rows: kind)
        return out

    def decode(
        self, z: Float[np.ndarray, "B L Z"], sampling: Sampling | None = None, seed: int = 0
    ) -> list[str]:
        """Texts of clean codes (scaled here to what the decoder expects)."""
        return self.texts(self.generate(z * np.float32(self.scale), sampling, seed))

    def _run(
        self,
        call: Callable[[np.ndarray], jax.Array],
        parts: list[np.ndarray],
        out: np.ndarray,
        kind: Callable[[np.ndarray], Any],
    ) -> None:
        """Fills the rows of each part with what its call gives.

        On one CPU device calls run side by side: the products of one are too small for all cores,
        and JAX starts those of one thread one after the other. On a mesh they never do: its
        devices must meet in one order.

        Args:
            call: rows of a part -> their results, padded.
            parts: rows of each call.
            out: where results go.
            kind: of a part; calls of one kind and one number of rows are one program.
        """

        def fill(rows: np.ndarray) -> None:
            out[rows] = _host(call(rows))[: len(rows)]

        later = []
        for rows in parts:
            key = (kind(rows), _size(len(rows)))
            if self.side_by_side and key in self._compiled:
                later.append(rows)
            else:  # on its own: two threads would both compile it
                fill(rows)
                self._compiled.add(key)
        if len(later) < 2:
            for rows in later:
                fill(rows)
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, later))

    def texts(self, ids: Int[np.ndarray, "B T"]) -> list[str]:
        return self.tokenizer.decode([[int(i) for i in row] for row in ids])


def lengths_to(max_length: int) -> tuple[int, ...]:
    """Powers of two from SHORTEST on, up to max_length itself."""
    lengths, size = [], SHORTEST
    while size < max_length:
        lengths.append(size)
        size *= 2
    return (*lengths, max_length)


def _parts(count: int) -> list[slice]:
    """Calls of at most ROWS[-1] rows."""
    return [slice(i, min(i + ROWS[-1], count)) for i in range(0, count, ROWS[-1])]


def _size(count: int) -> int:
    return next(x for x in ROWS if x >= count)


def _padded(rows: np.ndarray) -> np.ndarray:
    """The last row again and again, up to the next of ROWS: a copy ends when it does."""
    size = _size(len(rows))
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def _host(x: jax.Array) -> np.ndarray:
    if not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)
