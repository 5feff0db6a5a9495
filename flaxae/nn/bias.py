"""Terms added to attention scores: masks, and T5's relative position bias."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.task import Context

# The terms added to the scores, (1 or rows, 1 or H, S, T), float32. A learned bias of all rows and
# a mask of each row stay two arrays: their sum, and its gradient, would be as large as the scores.
# A mask of keys, (rows, 1, 1, T), is a constant.
Bias = Array | tuple[Array, ...] | None
MASKED = -1e9  # finite, so that a row with nothing to attend to stays finite
SHARED = -1  # the segment id of the prefix that all segments of a row share


def bias_terms(bias: Bias) -> tuple[Array, ...]:
    """Return the arrays of a bias as a tuple."""
    return bias if isinstance(bias, tuple) else () if bias is None else (bias,)


class RelativeBias(nnx.Module):
    """T5's learned bias by bucketed distance between key and query; a stack has one."""

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int,
        max_distance: int,
        bidirectional: bool,
        std: float,
        rngs: nnx.Rngs,
    ):
        table = jax.random.normal(rngs.params(), (num_buckets, num_heads), jnp.float32)
        self.table = nnx.Param(std * table)
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.bidirectional = bidirectional

    def __call__(self, queries: int, keys: int, ctx: Context) -> Float[Array, "1 H S T"]:
        """Return the bias of query positions 0..queries-1 and key positions 0..keys-1."""
        distance = np.arange(keys)[None, :] - np.arange(queries)[:, None]
        buckets = relative_buckets(
            distance, self.num_buckets, self.max_distance, self.bidirectional
        )
        return rearrange(self.table[...][jnp.asarray(buckets)], "S T H -> 1 H S T")


def relative_buckets(
    distance: Int[np.ndarray, "S T"], num_buckets: int, max_distance: int, bidirectional: bool
) -> Int[np.ndarray, "S T"]:
    """Return the buckets of key - query distances (Raffel et al. 2020, section 2.1).

    Near distances have a bucket each; farther ones share buckets of logarithmic width.

    Args:
        distance: positions of keys minus positions of queries.
        num_buckets: rows of the bias table.
        max_distance: distance from which on all keys share the last bucket.
        bidirectional: whether keys after the query have buckets too.

    Returns:
        Rows of the bias table, int32.
    """
    base = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        base = np.where(distance > 0, num_buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = num_buckets // 2
    ratio = np.log(np.maximum(distance, 1) / exact) / math.log(max_distance / exact)
    far = exact + (ratio * (num_buckets - exact)).astype(np.int32)
    far = np.minimum(far, num_buckets - 1)
    return (base + np.where(distance < exact, distance, far)).astype(np.int32)


def causal_bias(length: int) -> Float[Array, "1 1 S S"]:
    """Return 0 where a query may attend (itself and earlier positions), MASKED elsewhere."""
    allowed = np.tril(np.ones((length, length), bool))
    return jnp.asarray(np.where(allowed, 0.0, MASKED).astype(np.float32))[None, None]


def with_slot(bias: Float[Array, "_ _ S T"]) -> Float[Array, "_ _ S U"]:
    """Append one key to a bias, after the others, which every query may attend to."""
    return jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, 1)))


def padding_bias(mask: Float[Array, "B T"]) -> Float[Array, "B 1 1 T"]:
    """Return 0 for real keys, MASKED for padding."""
    return rearrange(jnp.where(mask > 0, 0.0, MASKED), "B T -> B 1 1 T").astype(jnp.float32)


def segment_bias(segment_ids: Int[Array, "B S"]) -> Float[Array, "B 1 S S"]:
    """Return 0 where a query may attend, MASKED elsewhere.

    A query attends to itself and to earlier positions of its own segment or of the shared prefix.

    Args:
        segment_ids: the segment of each position: 1, 2, ... for packed sequences, 0 for padding,
            SHARED for a prefix at the start of a row that all its sequences share.

    Returns:
        The bias, float32.
    """
    length = segment_ids.shape[1]
    causal = np.tril(np.ones((length, length), bool))[None]
    keys = segment_ids[:, None, :]  # (B, 1, T)
    allowed = (segment_ids[:, :, None] == keys) | (keys == SHARED)  # (B, S, T)
    allowed = allowed & (keys != 0) & causal
    return jnp.where(allowed, 0.0, MASKED)[:, None].astype(jnp.float32)


def segment_positions(segment_ids: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """Return positions that start at 0 in every segment, also after padding on the left.

    In a row with a shared prefix, every segment's positions continue those of the prefix.

    Args:
        segment_ids: see `segment_bias`.

    Returns:
        Positions, int32.
    """
    index = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None]
    starts = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1]) != 0
    prefix = jnp.sum(segment_ids == SHARED, axis=1, keepdims=True, dtype=jnp.int32)
    within = index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    return within + jnp.where(segment_ids == SHARED, 0, prefix)
