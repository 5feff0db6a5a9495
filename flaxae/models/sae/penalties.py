"""Penalties of sparsity that do not depend on scale, and an encoding of numbers as two weights."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def hoyer_square(x: Float[Array, "*shape"], eps: float = 1e-12) -> Float[Array, ""]:
    """Return (sum |x|)^2 / sum x^2, between 1 and the number of entries (Yang et al. 2020).

    Args:
        x: entries.
        eps: added to the denominator; all zeros have penalty 0.
    """
    return jnp.square(jnp.abs(x).sum()) / (jnp.square(x).sum() + eps)


def group_hoyer_square(x: Float[Array, "G N"], eps: float = 1e-12) -> Float[Array, ""]:
    """Return `hoyer_square` of the norms of groups, the rows of x."""
    square = jnp.square(x).sum(-1)
    # The gradient of the square root at 0 is not finite: groups of zeros have none.
    norms = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return jnp.square(norms.sum()) / (square.sum() + eps)


def two_hot(x: Float[Array, "..."], bins: Float[Array, "K"]) -> Float[Array, "... K"]:
    """Return weights of the two bins around each number, whose weighted mean is the number.

    Args:
        x: numbers; those beyond the bins count as the nearest bin.
        bins: increasing.

    Returns:
        At most two weights that are not 0, with sum 1.
    """
    x = jnp.clip(x, bins[0], bins[-1])
    below = jnp.clip(jnp.searchsorted(bins, x, side="right") - 1, 0, len(bins) - 2)
    low, high = bins[below], bins[below + 1]
    upper = (x - low) / (high - low)
    place = jnp.arange(len(bins), dtype=below.dtype)
    place = place.reshape((1,) * x.ndim + (-1,))
    first, second = place == below[..., None], place == below[..., None] + 1
    return jnp.where(first, 1 - upper[..., None], 0) + jnp.where(second, upper[..., None], 0)


def from_two_hot(weights: Float[Array, "... K"], bins: Float[Array, "K"]) -> Float[Array, "..."]:
    """Return the weighted mean of bins, which inverts `two_hot`."""
    return weights @ bins
