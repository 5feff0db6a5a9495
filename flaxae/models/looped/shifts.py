"""Linear regression under distribution shift: prompts and queries unlike those of training.

This is the suite of Garg et al. 2022, section 4. The error is that of one point, the query.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from flaxae.models.looped.problems import ProblemBatch, inputs, linear_weights


class Shift(enum.Enum):
    """A distribution of prompts and queries."""

    NONE = "none"
    QUADRANTS = "quadrants"  # the prompt's x are in one orthant, the query is in the opposite one
    ORTHOGONAL = "orthogonal"  # the query is orthogonal to all x of the prompt
    HALF_SUBSPACE = "half subspace"  # x are in a random subspace of d / 2 dimensions
    SKEWED = "skewed"  # the covariance has eigenvalues ~ 1 / i^2 and trace d
    X_THIRD, X_THREE = "x / 3", "x * 3"
    Y_THIRD, Y_THREE = "y / 3", "y * 3"
    NOISE = "noise of 1"  # standard deviation of noise on the prompt's y


class ShiftedBatch(NamedTuple):
    """A batch of problems whose query is its last point.

    Attributes:
        batch: xs and ys; the query's y has no noise.
        scale: variance of the query's y, by which the error is divided.
    """

    batch: ProblemBatch
    scale: Float[Array, ""]


def draw_shifted(
    shift: Shift, key: Key[Array, ""], rows: int, points: int, dims: int
) -> ShiftedBatch:
    """Draw a batch of linear problems under a shift.

    Args:
        shift: the distribution.
        key: random key.
        rows: B.
        points: n. ORTHOGONAL has at most d points, including the query, since no more can be
            orthogonal.
        dims: d.

    Returns:
        The problems and their scale.
    """
    weight_key, input_key, more = jax.random.split(key, 3)
    weights = linear_weights(weight_key, rows, dims)
    if shift is Shift.ORTHOGONAL:
        points = min(points, dims)
    xs = inputs(input_key, rows, points, dims)
    factor = 1.0
    match shift:
        case Shift.QUADRANTS:
            signs = jax.random.rademacher(more, (rows, 1, dims), jnp.float32)
            xs = jnp.abs(xs) * signs
            xs = xs.at[:, -1].multiply(-1.0)
        case Shift.ORTHOGONAL:
            # QR's last column is orthogonal to the others; it gets the length of a typical x.
            basis, _ = jnp.linalg.qr(rearrange(xs, "B n d -> B d n"))
            xs = xs.at[:, -1].set(basis[:, :, -1] * dims**0.5)
        case Shift.HALF_SUBSPACE:
            half = max(dims // 2, 1)
            wide = jax.random.normal(more, (rows, dims, half), jnp.float32)
            basis, _ = jnp.linalg.qr(wide)  # (B, d, d/2)
            inside = jnp.einsum("bnd,bdh,beh->bne", xs, basis, basis)
            xs = inside * (dims / half) ** 0.5
        case Shift.SKEWED:
            spread = 1.0 / jnp.arange(1, dims + 1, dtype=jnp.float32)
            spread = spread * (dims / jnp.sum(jnp.square(spread))) ** 0.5
            wide = jax.random.normal(more, (rows, dims, dims), jnp.float32)
            rotation, _ = jnp.linalg.qr(wide)
            xs = jnp.einsum("bnd,bde->bne", xs * spread[None, None], rotation)
        case Shift.X_THIRD | Shift.X_THREE:
            factor = 1 / 3 if shift is Shift.X_THIRD else 3.0
            xs = xs * factor
        case Shift.Y_THIRD | Shift.Y_THREE:
            factor = 1 / 3 if shift is Shift.Y_THIRD else 3.0
            weights = weights * factor
    ys = jnp.einsum("bnd,bd->bn", xs, weights)
    if shift is Shift.NOISE:
        noise = jax.random.normal(more, (rows, points), jnp.float32)
        ys = ys + noise.at[:, -1].set(0.0)
    return ShiftedBatch(ProblemBatch(xs, ys), jnp.float32(factor**2 * dims))
