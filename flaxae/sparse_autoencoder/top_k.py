"""Selection of the largest activations, per row or over a batch, without sorting all of them."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from flaxae.nn.linear import align


def top_k_mask(
    z: Float[Array, "... F"], k: int, count: Int[Array, ""] | None = None
) -> Bool[Array, "... F"]:
    """Return True at the k largest entries of each row; the first of equal ones are taken.

    Args:
        z: activations.
        k: number of entries per row.
        count: number of entries that are kept, at most k; it may be traced, so that the runs of
            one program have different ones. None: k.

    Returns:
        The mask; it has no gradient.
    """
    rows = rearrange(jax.lax.stop_gradient(z), "... F -> (...) F")
    _, indices = jax.lax.top_k(rows, k)
    kept = jnp.arange(k, dtype=jnp.int32) < (k if count is None else count)
    kept = jnp.broadcast_to(kept[None], indices.shape)
    row = jnp.arange(rows.shape[0], dtype=jnp.int32)[:, None]
    mask = jnp.zeros(rows.shape, bool).at[row, indices].set(kept, unique_indices=True)
    return mask.reshape(z.shape)


def kth_largest(values: Float[Array, "... F"], count: Int[Array, ""]) -> Float[Array, ""]:
    """Return the largest t such that at least `count` values are t or more.

    The bits of t are found one after another, each by counting: non-negative floats have the
    order of their bits. This takes 31 passes over the values, and no sort.

    Args:
        values: float32, at least 0.
        count: number of values to keep; it may be traced.

    Returns:
        The value at that place of the descending order; 0 if there are fewer values.
    """
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(values), jnp.int32)
    # Sums of rows are exact in int32. Their sum may exceed it; as a float, it is exact up to 2^24.
    count = count.astype(jnp.float32)

    def add_bit(i: Array, found: Array) -> Array:
        longer = found | (jnp.int32(1) << (30 - i))
        above = jnp.sum((bits >= longer).astype(jnp.int32), axis=-1).astype(jnp.float32).sum()
        return jnp.where(above >= count, longer, found)

    found = jax.lax.fori_loop(0, 31, add_bit, jnp.int32(0))
    return jax.lax.bitcast_convert_type(found, jnp.float32)


def batch_top_k_mask(
    z: Float[Array, "... F"],
    k: float | Float[Array, ""],
    weights: Float[Array, "..."] | None = None,
) -> Bool[Array, "... F"]:
    """Return True at the k largest positive entries per row on average, over the whole batch.

    The batch is the global one if it is split over devices. Entries that equal the smallest kept
    one are all kept.

    Args:
        z: activations.
        k: mean number of entries per row; it may be a fraction, and traced.
        weights: 0 for rows that only pad the batch, which have no entries; None: all rows are real.

    Returns:
        The mask; it has no gradient.
    """
    acts = jax.nn.relu(jax.lax.stop_gradient(z)).astype(jnp.float32)
    rows = jnp.float32(acts[..., 0].size)
    if weights is not None:
        real = weights > 0
        acts, rows = jnp.where(real[..., None], acts, 0), real.astype(jnp.float32).sum()
    # As an integer: k rows of 0.1 * 10 are 1, not 0.99999994.
    count = jnp.floor(jnp.asarray(k, jnp.float32) * rows + 1e-3).astype(jnp.int32)
    least = kth_largest(acts, count)
    return (acts > 0) & (acts >= least) & (count > 0)


def group_max_mask(z: Float[Array, "... F"], k: int) -> Bool[Array, "... F"]:
    """Return True at the largest entry of each of k groups of neighbours (the first if equal)."""
    groups = rearrange(jax.lax.stop_gradient(z), "... (k g) -> ... k g", k=k)
    best = jnp.argmax(groups, axis=-1).astype(jnp.int32)
    place = jnp.arange(groups.shape[-1], dtype=jnp.int32)
    return rearrange(best[..., None] == align(place, groups), "... k g -> ... (k g)")
