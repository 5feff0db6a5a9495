"""StraightBytes: a feed-forward network that predicts a byte from the last n bytes.

Letters in shapes: B streams, T bytes that are read at once, n bytes of context, H units.
"""

import dataclasses
import enum

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config.ranges import Count, Counts
from flaxae.models.byte_lm.network import (
    BITS,
    BYTES,
    ByteNetwork,
    Frozen,
    Output,
    bits,
    signed_bits,
)
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.nn.linear import Embedding, Linear, align
from flaxae.task import Context, StreamCarry


class Coding(enum.Enum):
    """Numbers that represent a byte of the context."""

    BITS = "bits"  # its bits as -1 and 1, the most significant one first
    ZERO_ONE = "zero_one"  # its bits as 0 and 1
    PERMUTED = "permuted"  # bits of a random permutation of the values: no structure of ASCII
    LEARNED = "learned"  # a learned vector of 8 numbers
    ONE_HOT = "one_hot"  # 256 numbers, one of which is 1


def bernoulli_logits(z: Float[Array, "... 8"]) -> Float[Array, "... 256"]:
    """Return scores of the 256 values whose softmax is the product of 8 independent bits.

    Args:
        z: logits of the bits, the most significant one first.
    """
    return z @ bits(jnp.arange(BYTES)).T  # (8, 256)


def gated(x: Float[Array, "... 2*H"]) -> Float[Array, "... H"]:
    """Return the first half of the features times the sigmoid of the second half."""
    value, gate = jnp.split(x, 2, axis=-1)
    return value * jax.nn.sigmoid(gate)


class Windows(nnx.Module):
    """A linear map of the last n bytes, coded as 8 numbers each: a 1-D convolution of the stream.

    All positions are one matmul of windows. On a CPU this is faster than XLA's convolution if the
    coding is learned, and as fast if it is fixed.
    """

    def __init__(self, coding: Coding, context: int, features: int, rngs: nnx.Rngs):
        self.coding, self.context = coding, context
        self.table = Embedding(BYTES, BITS, rngs=rngs) if coding is Coding.LEARNED else None
        order = jax.random.permutation(rngs.frozen(), BYTES) if coding is Coding.PERMUTED else None
        self.order = None if order is None else Frozen(order)
        self.map = Linear(context * BITS, features, use_bias=True, rngs=rngs)

    def code(self, x: Int[Array, "..."], ctx: Context) -> Float[Array, "... 8"]:
        """Return the numbers that represent bytes."""
        if self.table is not None:
            return self.table(x, ctx.at("table"))
        if self.order is not None:
            x = self.order[...][x]
        return bits(x) if self.coding is Coding.ZERO_ONE else signed_bits(x)

    def __call__(self, x: Int[Array, "B n+T-1"], ctx: Context) -> Float[Array, "B T F"]:
        """Return the map of the window that ends at each of the last T bytes."""
        starts = jnp.arange(x.shape[1] - self.context + 1)
        places = starts[:, None] + jnp.arange(self.context)[None]  # (T, n)
        codes = self.code(x[:, places], ctx)  # (B, T, n, 8)
        return self.map(rearrange(codes, "B T n bits -> B T (n bits)"), ctx.at("map"))


class Lookups(nnx.Module):
    """A linear map of the last n bytes as one-hot vectors: a sum of rows of n tables."""

    def __init__(self, context: int, features: int, rngs: nnx.Rngs):
        tables = jax.random.normal(rngs.params(), (context, BYTES, features), jnp.float32)
        self.tables = nnx.Param(context**-0.5 * tables)
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))

    def __call__(self, x: Int[Array, "B n+T-1"], ctx: Context) -> Float[Array, "B T F"]:
        """Return the map of the window that ends at each of the last T bytes."""
        tables = self.tables[...]
        length = x.shape[1] - len(tables) + 1

        def add(total: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
            table, start = one
            ids = jax.lax.dynamic_slice_in_dim(x, start, length, axis=1)  # (B, T)
            return total + table.at[ids].get(mode="promise_in_bounds"), None

        zeros = jnp.zeros((len(x), length, tables.shape[2]), tables.dtype)
        total, _ = jax.lax.scan(add, zeros, (tables, jnp.arange(len(tables))))
        return total + align(self.bias[...], total)


class StraightBytes(ByteNetwork):
    """Gated layers (W x + b) * sigmoid(V x + c) on the last n bytes, then scores of the next."""

    def __init__(self, rows: int, config: "StraightBytesConfig", rngs: nnx.Rngs):
        first, *others = config.hidden_widths
        if config.coding is Coding.ONE_HOT:
            self.first = Lookups(config.context, 2 * first, rngs)
        else:
            self.first = Windows(config.coding, config.context, 2 * first, rngs)
        self.layers = nnx.List(
            Linear(before, 2 * width, use_bias=True, rngs=rngs)
            for before, width in zip(config.hidden_widths, others, strict=False)
        )
        outputs = BITS if config.bernoulli else BYTES
        self.head = Linear(config.hidden_widths[-1], outputs, use_bias=True, rngs=rngs)
        self.last = StreamCarry(jnp.zeros((rows, config.context), jnp.int32))
        self.bernoulli = config.bernoulli

    def __call__(self, x: Int[Array, "B T"], ctx: Context) -> Output:
        """Read bytes; see `ByteNetwork`."""
        recent = jnp.concatenate([self.last[...], x], 1)  # (B, n + T)
        context = self.last.shape[1]
        self.last[...] = recent[:, -context:]
        h = gated(self.first(recent[:, 1:], ctx.at("first")))  # (B, T, H)
        for i, layer in enumerate(self.layers):
            h = gated(layer(h, ctx.at(f"layers.{i}")))
        scores = self.head(h, ctx.at("head"))
        return Output(bernoulli_logits(scores) if self.bernoulli else scores)


@dataclasses.dataclass
class StraightBytesConfig(ByteLMConfig):
    """Sizes of a StraightBytes; the defaults are those of the original."""

    coding: Coding = Coding.BITS
    context: Count = 128  # bytes that a prediction depends on
    widths: Counts = ()  # of the hidden layers; (): geometric from 8 * context to 256
    layers: Count = 3  # hidden layers if widths is ()
    bernoulli: bool = False  # scores of 8 independent bits instead of 256 values

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        start, count = BITS * self.context, self.layers + 1
        steps = [start * (BYTES / start) ** (i / count) for i in range(1, count)]
        return tuple(self.widths) or tuple(map(round, steps))

    def network(self, rows: int, rngs: nnx.Rngs) -> StraightBytes:
        """Build the network."""
        return StraightBytes(rows, self, rngs)
