"""The engine of a trained autoencoder: texts, ids and codes, in batches of a few fixed sizes.

It does not check its input; `flaxae.text_autoencoder.checks` does that for users.
"""

import os
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int

from flaxae.data.tokenizer import PAD
from flaxae.data.tokens import TokenTable
from flaxae.decoding import Sampling
from flaxae.task import Context
from flaxae.text_autoencoder.channel import Channel, on_space, transmit
from flaxae.text_autoencoder.interpolation import noise_on_path
from flaxae.text_autoencoder.protocol import LatentModel, TextTokenizer

# The number of rows of a call is padded to the next of ROWS, the length of texts to the next of
# `lengths_to`. This bounds the number of compiled programs.
ROWS = (8, 32, 64, 128)
SHORTEST = 8
FEW = 32  # up to this many texts are encoded in one call; more are grouped by length


@partial(jax.jit, static_argnums=0)
def _encode(
    graphdef: Any, state: Any, ids: Int[Array, "B T"], step: Int[Array, ""]
) -> Float[Array, "B L Z"]:
    model = nnx.merge(graphdef, state)
    return model.encode([ids], Context(key=jax.random.key(0), step=step))


_transmit = jax.jit(transmit, static_argnums=2)


@partial(jax.jit, static_argnums=(0, 4))
def _generate(
    graphdef: Any,
    state: Any,
    z: Float[Array, "B L Z"],
    step: Int[Array, ""],
    num_tokens: int,
    sampling: Sampling,
    seed: Int[Array, "2"],
    sigma: Float[Array, "B"] | None,
) -> Int[Array, "B T"]:
    model = nnx.merge(graphdef, state)
    key = jax.random.fold_in(jax.random.key(seed[0]), seed[1])
    ctx = Context(key=key, step=step)
    given = {} if sigma is None else {"sigma": sigma}
    return model.generate(z, ctx, num_tokens, sampling=sampling, drop_ended=True, **given)


class Codec:
    """Texts to codes and back.

    Attributes:
        scale: factor from clean codes to the codes that the decoder expects.
        sigma: standard deviation of the noise that the decoder was trained with; the largest if
            each text has its own.
        lowest_sigma: the smallest; `sigma` if all texts have the same noise.
        channel: how the noise enters codes.
        reads_noise: True if the decoder is given the standard deviation of the noise.
        max_length: tokens per text, EOS included.
        num_latents, dim: the shape of a code is (num_latents, dim).
    """

    def __init__(self, model: LatentModel, tokenizer: TextTokenizer, step: int | Int[Array, ""]):
        """Split a model into its graph and its state, once for all calls.

        Args:
            model: a trained module.
            tokenizer: its tokenizer.
            step: train step of its parameters, on which schedules depend.
        """
        self.graphdef, self.state = nnx.split(model)
        self.tokenizer, self.max_length = tokenizer, model.max_length
        self.num_latents, self.dim = model.num_latents, model.dim
        self.step = jnp.asarray(step, jnp.int32)
        self.scale = float(model.clean_code(jnp.ones((1, 1, 1)), self.step)[0, 0, 0])
        self.sigma = float(model.sigma(self.step))
        self.channel: Channel = getattr(model, "channel", Channel.ADDITIVE)
        self.reads_noise = bool(getattr(model, "reads_noise", False))
        lowest: Any = getattr(model, "lowest_sigma", model.sigma)
        self.lowest_sigma = float(lowest(self.step))
        self.lengths = lengths_to(model.max_length)
        devices = {d for x in jax.tree.leaves(self.state) for d in x.devices()}
        self.parallel = len(devices) == 1 and devices.pop().platform == "cpu"
        self._compiled: set[Hashable] = set()

    def ids(self, texts: list[str]) -> Int[np.ndarray, "B T"]:
        """Return ids with EOS, cut to max_length and padded with PAD."""
        table = TokenTable.of(self.tokenizer.encode(texts))
        return table.padded(np.arange(len(table)), self.max_length)

    def encode(self, texts: list[str]) -> Float[np.ndarray, "B L Z"]:
        """Return clean codes: without noise, not scaled."""
        return self.encode_ids(self.ids(texts))

    def encode_ids(self, ids: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B L Z"]:
        """Return clean codes of ids.

        Args:
            ids: rows as `ids` returns them; columns that are all padding may be cut off.
        """
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

        self._run(call, parts, out, lambda rows: int(lengths[rows[0]]))
        return out

    def received(
        self, z: Float[np.ndarray, "B L Z"], noise: float = 0.0, seed: int = 0
    ) -> Float[np.ndarray, "B L Z"]:
        """Return the codes that the decoder reads for clean codes.

        The additive channel makes codes longer, and the decoder expects the length that the noise
        of training makes: with less noise codes are scaled up.

        Args:
            z: clean codes.
            noise: standard deviation of the channel's noise.
            seed: seed of the noise; the noise of a code does not depend on the codes after it.
        """
        z = np.asarray(z, np.float32)
        if not noise:
            return z * np.float32(self.scale)
        drawn = np.random.default_rng((seed, 3)).normal(size=z.shape).astype(np.float32)
        noisy = np.empty_like(z)

        def call(rows: np.ndarray) -> jax.Array:
            given = (_padded(z[rows]), np.float32(noise), self.channel, _padded(drawn[rows]))
            return _transmit(*given)

        parts = [np.arange(len(z))[part] for part in _parts(len(z))]
        self._run(call, parts, noisy, lambda rows: "transmit")
        if self.channel is Channel.PRESERVING:
            return noisy
        return noisy * np.float32(max(1.0, self.scale / np.sqrt(1 + noise**2)))

    def generate(
        self,
        z: Float[np.ndarray, "B L Z"],
        sampling: Sampling | None = None,
        seed: int = 0,
        assumed_noise: float | Float[np.ndarray, " B"] | None = None,
    ) -> Int[np.ndarray, "B T"]:
        """Return the ids that codes are decoded to.

        Args:
            z: codes as the decoder reads them (see `received`).
            sampling: how ids are chosen; None: greedy.
            seed: seed of random choices.
            assumed_noise: standard deviation of the noise in z that a decoder that reads it
                assumes, one for all codes or one per code; None: the smallest that it was trained
                with. Others ignore it.
        """
        z = np.asarray(z, np.float32).reshape(len(z), self.num_latents, self.dim)  # (B, L, Z)
        out = np.empty((len(z), self.max_length), np.int32)
        known = self.lowest_sigma if assumed_noise is None else assumed_noise
        assumed = np.broadcast_to(np.asarray(known, np.float32), len(z))  # (B,)

        def call(rows: np.ndarray) -> jax.Array:
            return _generate(
                self.graphdef,
                self.state,
                _padded(z[rows]),
                self.step,
                self.tokenizer.vocab_size,
                sampling or Sampling(),
                np.asarray([seed, rows[0]], np.uint32),
                _padded(assumed[rows]) if self.reads_noise else None,
            )

        parts = [np.arange(len(z))[part] for part in _parts(len(z))]
        program = jax.tree.structure(sampling or Sampling())
        self._run(call, parts, out, lambda rows: program)
        return out

    def decode(
        self,
        z: Float[np.ndarray, "B L Z"],
        sampling: Sampling | None = None,
        seed: int = 0,
        noise: float = 0.0,
        assumed_noise: float | Float[np.ndarray, " B"] | None = None,
    ) -> list[str]:
        """Return the texts of clean codes, sent through the channel.

        Args:
            z: clean codes.
            sampling: how ids are chosen; None: greedy.
            seed: seed of random choices, and of the noise.
            noise: standard deviation of the channel's noise.
            assumed_noise: see `generate`; None: `noise`, or if that is 0 the smallest trained.
        """
        if assumed_noise is None and noise:
            assumed_noise = noise
        return self.texts(
            self.generate(self.received(z, noise, seed), sampling, seed, assumed_noise)
        )

    def path_noise(
        self,
        codes: Float[np.ndarray, "n L Z"],
        a: Float[np.ndarray, "... Z"],
        b: Float[np.ndarray, "... Z"],
        noise: float = 0.0,
    ) -> Float[np.ndarray, " n"] | None:
        """Return the noise that the decoder assumes in codes between two ends.

        Args:
            codes: codes on paths.
            a: see `interpolation.noise_on_path`.
            b: see `interpolation.noise_on_path`.
            noise: standard deviation of the channel's noise, through which the codes are sent.

        Returns:
            One sigma per code, within those of training; None if the decoder reads no noise, or
            the channel is not the preserving one.
        """
        if not self.reads_noise or self.channel is not Channel.PRESERVING:
            return None
        kept = (1 - np.square(noise_on_path(codes, a, b))) * (1 - noise**2)  # squared cosines
        return np.clip(np.sqrt(1 - kept), self.lowest_sigma, max(self.sigma, noise))

    def on_space(self, z: Float[np.ndarray, "B L Z"]) -> Float[np.ndarray, "B L Z"]:
        """Return changed codes as the model makes codes (see `channel.on_space`)."""
        return on_space(z, self.channel)

    def texts(self, ids: Int[np.ndarray, "B T"]) -> list[str]:
        """Return the text of each row of ids."""
        return self.tokenizer.decode([[int(i) for i in row] for row in ids])

    def _run(
        self,
        call: Callable[[np.ndarray], jax.Array],
        parts: list[np.ndarray],
        out: np.ndarray,
        program: Callable[[np.ndarray], Hashable],
    ) -> None:
        """Fill the rows of each part with the results of its call.

        On a single CPU device calls run in parallel threads: one call's matmuls are too small to
        use all cores, and JAX runs the calls of one thread one after the other. On a mesh calls
        never run in parallel, because all devices must see collectives in the same order.

        Args:
            call: maps the rows of a part to their results, padded.
            parts: the rows of each call.
            out: array that receives the results.
            program: names the program of a part; parts of one name and size share one compilation.
        """

        def fill(rows: np.ndarray) -> None:
            out[rows] = _to_host(call(rows))[: len(rows)]

        later = []
        for rows in parts:
            key = (program(rows), _size(len(rows)))
            if self.parallel and key in self._compiled:
                later.append(rows)
            else:  # not in a thread: two threads would both compile it
                fill(rows)
                self._compiled.add(key)
        if len(later) < 2:
            for rows in later:
                fill(rows)
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, later))


def lengths_to(max_length: int) -> tuple[int, ...]:
    """Return the powers of two from SHORTEST to below max_length, then max_length."""
    lengths, size = [], SHORTEST
    while size < max_length:
        lengths.append(size)
        size *= 2
    return (*lengths, max_length)


def _parts(count: int) -> list[slice]:
    """Split rows into calls of up to ROWS[-1] rows."""
    return [slice(i, min(i + ROWS[-1], count)) for i in range(0, count, ROWS[-1])]


def _size(count: int) -> int:
    return next(x for x in ROWS if x >= count)


def _padded(rows: np.ndarray) -> np.ndarray:
    """Pad to the next of ROWS with copies of the last row, which end decoding when it does."""
    size = _size(len(rows))
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def _to_host(x: jax.Array) -> np.ndarray:
    if not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)
