"""Discrete codes of hidden states: several tokens for each layer of [batch, layer, features].

Each token is one entry of a learned codebook (VQ, van den Oord et al. 2017) or a point of a fixed
grid (FSQ, Mentzer et al. 2023).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.models.sae.per_layer import LayerLinear
from flaxae.task import Carry, Context

FSQ_EPS = 1e-3


class Codes(NamedTuple):
    """Quantised tokens.

    Attributes:
        values: what the decoder reads, with straight-through gradients.
        index: number of each code.
        loss: commitment of each token, (...,).
    """

    values: Float[Array, "... C"]
    index: Int[Array, "..."]
    loss: Float[Array, "..."]


class FSQ(nnx.Module):
    """Rounding of each feature to one of a few levels; it has no parameters.

    Args:
        levels: number of levels of each feature.
    """

    def __init__(self, levels: tuple[int, ...]):
        # With 2 levels, the formula's lower one needs z < -3.8: it would hardly be used.
        require(bool(levels) and min(levels) > 2, f"task.levels={levels}: each must be 3 or more")
        self.levels = tuple(levels)
        self.size, self.width = math.prod(levels), len(levels)

    def __call__(
        self, z: Float[Array, "... C"], weights: Float[Array, "..."], ctx: Context
    ) -> Codes:
        """Return the codes of tokens; `weights` have no effect, as nothing is learned."""
        bounded = self.bounded(z)
        rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
        half = self._vector([level // 2 for level in self.levels], z)
        digits = (jnp.round(bounded) + half).astype(jnp.int32)
        basis = np.cumprod([1, *self.levels[:-1]]).astype(np.int32)
        index = jnp.sum(digits * self._vector(basis, digits), axis=-1)
        return Codes(rounded / half, index, jnp.zeros_like(weights))

    def bounded(self, z: Float[Array, "... C"]) -> Float[Array, "... C"]:
        """Return z between the outermost levels; rounding gives integers."""
        levels = np.asarray(self.levels, np.float32)
        half = (levels - 1) * (1 + FSQ_EPS) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)
        shift = np.arctanh(offset / half)
        half, offset, shift = (self._vector(x, z) for x in (half, offset, shift))
        return jnp.tanh(z + shift) * half - offset

    def values(self, index: Int[Array, "..."]) -> Float[Array, "... C"]:
        """Return the values of codes by number."""
        levels = self._vector(self.levels, index[..., None])
        basis = self._vector(np.cumprod([1, *self.levels[:-1]]), index[..., None])
        half = levels // 2
        digits = index[..., None] // basis % levels
        return (digits - half).astype(jnp.float32) / half.astype(jnp.float32)

    @staticmethod
    def _vector(values: Any, like: Array) -> Array:
        return jnp.asarray(values, like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


class VQ(nnx.Module):
    """A codebook that follows the moving averages of the tokens that it is chosen for.

    The first codes are random tokens of the first batch. A code that is chosen for less than one
    token per batch restarts at a random token of the batch.

    Args:
        size: number of codes.
        width: features per code.
        rngs: source of the initial codes, its stream `params`.
        commitment: weight of the squared distance of tokens to their codes.
        decay: decay of the moving averages.
        restart: mean number of tokens per batch below which a code restarts.
    """

    def __init__(
        self,
        size: int,
        width: int,
        *,
        rngs: nnx.Rngs,
        commitment: float = 0.25,
        decay: float = 0.99,
        restart: float = 1.0,
    ):
        self.size, self.width = size, width
        self.commitment, self.decay, self.restart = commitment, decay, restart
        codes = jax.random.normal(rngs.params(), (size, width), jnp.float32)
        self.counts = Carry(jnp.zeros(size, jnp.float32))  # 0 everywhere: no batch was seen
        self.sums = Carry(codes)

    @property
    def codebook(self) -> Float[Array, "K C"]:
        """The codes."""
        counts: Any = self.counts[...]
        return self.sums[...] / jnp.where(counts > 0, counts, 1)[:, None]

    def __call__(
        self, z: Float[Array, "... C"], weights: Float[Array, "..."], ctx: Context
    ) -> Codes:
        """Return the codes of tokens; in training, move the codebook afterwards.

        Args:
            z: tokens.
            weights: 0 for tokens of padding.
            ctx: context.
        """
        flat = rearrange(z, "... C -> (...) C")
        if ctx.train:
            self._restart(jax.lax.stop_gradient(flat), weights.reshape(-1), ctx)
        codes = self.codebook
        distance = jnp.square(codes).sum(-1)[None] - 2 * flat @ codes.T
        index = jnp.argmin(distance, axis=-1).astype(jnp.int32)
        if ctx.train:
            self._move(jax.lax.stop_gradient(flat), index, weights.reshape(-1))
        chosen = codes[index].reshape(z.shape)
        loss = self.commitment * jnp.square(z - chosen).sum(-1)
        straight = z + jax.lax.stop_gradient(chosen - z)
        return Codes(straight, index.reshape(z.shape[:-1]), loss)

    def _restart(self, flat: Float[Array, "N C"], weights: Float[Array, "N"], ctx: Context) -> None:
        """Put codes that are hardly chosen, at first all, at random tokens."""
        counts: Any = self.counts[...]
        scores = jnp.where(weights > 0, 0.0, -jnp.inf)[None]  # padding is never drawn
        drawn = jax.random.categorical(ctx.at("restart").key, scores, shape=(self.size,))
        unused = ((counts < self.restart) | jnp.all(counts == 0)) & jnp.any(weights > 0)
        self.counts[...] = jnp.where(unused, 1, counts)
        self.sums[...] = jnp.where(unused[:, None], flat[drawn], self.sums[...])

    def _move(
        self, flat: Float[Array, "N C"], index: Int[Array, "N"], weights: Float[Array, "N"]
    ) -> None:
        """Update the moving averages."""
        decay, counts, sums = self.decay, self.counts[...], self.sums[...]
        chosen = jnp.zeros(self.size, jnp.float32).at[index].add(weights)
        moved = jnp.zeros_like(sums).at[index].add(flat * weights[:, None])
        self.counts[...] = decay * counts + (1 - decay) * chosen
        self.sums[...] = decay * sums + (1 - decay) * moved

    def values(self, index: Int[Array, "..."]) -> Float[Array, "... C"]:
        """Return the values of codes by number."""
        return self.codebook[index]


class StateTokenizer(nnx.Module):
    """Hidden states of several layers as discrete tokens: encoder, quantiser, decoder.

    Args:
        layers: number of layers.
        features: features per layer.
        tokens: tokens per layer.
        hidden: hidden units of encoder and decoder per layer.
        quantiser: VQ or FSQ, shared by all layers and tokens.
        rngs: source of the initial values, its stream `params`.
    """

    def __init__(
        self,
        layers: int,
        features: int,
        *,
        tokens: int,
        hidden: int,
        quantiser: Any,
        rngs: nnx.Rngs,
    ):
        self.tokens, self.quantiser = tokens, quantiser
        width = tokens * quantiser.width
        self.up = LayerLinear(layers, features, hidden, rngs=rngs)
        self.to_codes = LayerLinear(layers, hidden, width, rngs=rngs)
        self.from_codes = LayerLinear(layers, width, hidden, rngs=rngs)
        self.down = LayerLinear(layers, hidden, features, rngs=rngs)

    @property
    def bits(self) -> float:
        """Bits per layer and position."""
        return self.tokens * math.log2(self.quantiser.size)

    def encode(
        self, x: Float[Array, "B L D"], ctx: Context, weights: Float[Array, "B"] | None = None
    ) -> Codes:
        """Return the codes of states, values (B, L, T, C) and index (B, L, T)."""
        z = self.to_codes(jax.nn.gelu(self.up(x, ctx.at("up"))), ctx.at("to_codes"))
        z = rearrange(z, "B L (T C) -> B L T C", T=self.tokens)
        weights = jnp.ones(len(x), jnp.float32) if weights is None else weights
        each = jnp.broadcast_to(weights[:, None, None], z.shape[:-1])
        return self.quantiser(z, each, ctx.at("quantiser"))

    def decode(self, values: Float[Array, "B L T C"], ctx: Context) -> Float[Array, "B L D"]:
        """Return the states of codes."""
        flat = rearrange(values, "B L T C -> B L (T C)")
        return self.down(jax.nn.gelu(self.from_codes(flat, ctx.at("from_codes"))), ctx.at("down"))
