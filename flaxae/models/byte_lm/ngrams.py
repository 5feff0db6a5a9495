"""Learned vectors of the last n bytes, from tables indexed by a hash of them.

Letters in shapes: B streams, T bytes that are read at once, n bytes of an n-gram, F features.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.nn.linear import Embedding, Linear, align
from flaxae.task import Context, StreamCarry

MULTIPLIER = 2_654_435_761  # odd, near 2^32 over the golden ratio (Knuth, TAOCP 3, section 6.4)


def hashed(recent: Int[Array, "B n-1+T"], n: int, rows: int) -> Int[Array, "B T"]:
    """Return an index of the n bytes that end at each of the last T bytes.

    Two n-grams may share an index. Each byte changes the sum before it by an odd factor, and the
    upper bits of a last product, which all of the sum's bits reach, are the index.

    Args:
        recent: bytes.
        n: bytes of an n-gram.
        rows: number of indices, a power of two.
    """
    length = recent.shape[1] - n + 1
    total = jnp.zeros((len(recent), length), jnp.uint32)
    for i in range(n):
        total = (total + recent[:, i : i + length].astype(jnp.uint32) + 1) * jnp.uint32(MULTIPLIER)
        total = total ^ (total >> 15)
    shift = 32 - (rows.bit_length() - 1)
    return ((total * jnp.uint32(MULTIPLIER)) >> shift).astype(jnp.int32)


def check_sizes(orders: tuple[int, ...], rows: int) -> None:
    """Fail with a ConfigError if `NGrams` cannot have these sizes."""
    require(min(orders) >= 2, f"task.ngrams={orders}: an n-gram has at least 2 bytes")
    require(
        rows > 1 and rows & (rows - 1) == 0, f"task.ngram_rows={rows}: use a power of two above 1"
    )


class NGrams(nnx.Module):
    """A linear map of one learned vector per order of n-grams, the bytes before a stream being 0.

    The tables share one array, so that an optimizer has one parameter to update.
    """

    def __init__(
        self,
        orders: tuple[int, ...],
        rows: int,
        features: int,
        outputs: int,
        streams: int,
        rngs: nnx.Rngs,
    ):
        """Draw the parameters.

        Args:
            orders: bytes of an n-gram, at least 2 each.
            rows: vectors per order, a power of two.
            features: numbers of a vector.
            outputs: features of the result.
            streams: number of streams.
            rngs: source of the initial values.
        """
        self.orders, self.rows = orders, rows
        self.vectors = Embedding(len(orders) * rows, features, std=0.02, rngs=rngs)
        self.map = Linear(len(orders) * features, outputs, rngs=rngs)
        self.last = StreamCarry(jnp.zeros((streams, max(orders) - 1), jnp.int32))

    def __call__(self, x: Int[Array, "B T"], ctx: Context) -> Float[Array, "B T H"]:
        """Return the map of the n-grams that end at each byte; keep the last bytes."""
        recent = jnp.concatenate([self.last[...], x], 1)
        longest = max(self.orders)
        self.last[...] = recent[:, -(longest - 1) :]
        ids = [hashed(recent[:, longest - n :], n, self.rows) for n in self.orders]
        starts = jnp.arange(len(ids)) * self.rows
        every = jnp.stack(ids, -1)  # (B, T, orders)
        found = self.vectors(every + align(starts, every), ctx.at("vectors"))  # (B, T, orders, F)
        return self.map(found.reshape(*x.shape, -1), ctx.at("map"))  # (B, T, orders F)
