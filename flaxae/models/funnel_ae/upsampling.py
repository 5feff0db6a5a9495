"""Upsamplers: from one state per pair of places to one state per place.

Pooling by the mean keeps p = (x_even + x_odd) / 2 of each pair and loses its Haar detail
d = (x_odd - x_even) / 2. An upsampler that returns p - s(p) and p + s(p) keeps the pooled states
exactly, and the s with the smallest squared error is E[d | p].
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn.linear import Linear
from flaxae.task import Context


class Upsampling(enum.Enum):
    """The way from a state to the two states of its pair."""

    REPEAT = "repeat"  # the state, twice
    INTERP = "interp"  # linear interpolation between the centres of the pairs
    FF_SEP = "ff_sep"  # p + a(p), p + b(p), with a feed-forward layer each
    HAAR = "haar"  # p - s(p), p + s(p), s linear: the pooled states are kept exactly
    LINEAR = "linear"  # one linear map to both states


class FeedForward(nnx.Module):
    """A feed-forward layer with biases: W2 gelu(W1 x)."""

    def __init__(self, width: int, dtype: Any, rngs: nnx.Rngs):
        self.wi = Linear(width, width, use_bias=True, dtype=dtype, rngs=rngs)
        self.wo = Linear(width, width, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B P D"], ctx: Context) -> Float[Array, "B P D"]:
        """Apply the layer to each state."""
        hidden = jax.nn.gelu(self.wi(x, ctx.at("wi")), approximate=True)
        return self.wo(hidden, ctx.at("wo"))


class Upsampler(nnx.Module):
    """One level of upsampling; each level has its own weights."""

    def __init__(self, kind: Upsampling, width: int, dtype: Any, *, rngs: nnx.Rngs):
        self.kind = kind
        parts: dict[str, nnx.Module] = {}
        if kind is Upsampling.HAAR:
            separator = Linear(width, width, use_bias=True, dtype=dtype, rngs=rngs)
            parts = {"separator": separator}
        elif kind is Upsampling.FF_SEP:
            parts = {name: FeedForward(width, dtype, rngs) for name in ("even", "odd")}
        elif kind is Upsampling.LINEAR:
            both = Linear(width, 2 * width, use_bias=True, dtype=dtype, rngs=rngs)
            parts = {"both": both}
        self.parts = nnx.Dict(parts)

    def __call__(self, x: Float[Array, "B P D"], ctx: Context) -> Float[Array, "B 2P D"]:
        """Return two states per state."""
        parts: Any = self.parts
        if self.kind is Upsampling.REPEAT:
            return repeat(x, "B P D -> B (P two) D", two=2)
        if self.kind is Upsampling.LINEAR:
            return rearrange(parts["both"](x, ctx.at("both")), "B P (two D) -> B (P two) D", two=2)
        if self.kind is Upsampling.INTERP:
            return _interpolated(x)
        if self.kind is Upsampling.HAAR:
            detail = self.detail(x, ctx)
            return _interleaved(x - detail, x + detail)
        even = x + parts["even"](x, ctx.at("even"))
        return _interleaved(even, x + parts["odd"](x, ctx.at("odd")))

    def detail(self, x: Float[Array, "B P D"], ctx: Context) -> Float[Array, "B P D"]:
        """Return s(p), the predicted Haar detail of pooled states; only of HAAR."""
        parts: Any = self.parts
        return parts["separator"](x, ctx.at("separator"))


def _interleaved(even: Float[Array, "B P D"], odd: Float[Array, "B P D"]) -> Array:
    return rearrange(jnp.stack([even, odd], axis=2), "B P two D -> B (P two) D")


def _interpolated(x: Float[Array, "B P D"]) -> Float[Array, "B 2P D"]:
    """Interpolate: the centre of pair i lies between the places 2i and 2i + 1.

    Place 2i is a quarter of the way to the pair before, place 2i + 1 to the pair after. The first
    and the last place have no neighbour on their side and copy the nearest state.
    """
    before = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
    after = jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1)
    return _interleaved(0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after)


def haar(x: Float[Array, "B 2P D"]) -> tuple[Float[Array, "B P D"], Float[Array, "B P D"]]:
    """Return the means of the pairs and their details (x_odd - x_even) / 2."""
    even, odd = rearrange(x, "B (P two) D -> two B P D", two=2)
    return (even + odd) / 2, (odd - even) / 2
