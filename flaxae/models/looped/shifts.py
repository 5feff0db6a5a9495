"""Linear regression unlike that of training: prompts and queries of other distributions.

The suite of Garg et al. 2022, section 4. What counts is the error at one point, the query.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flaxae.models.looped.problems import Drawn, inputs, linear_weights


class Shift(enum.Enum):
    NONE = "none"
    QUADRANTS = "quadrants"  # the prompt's x in one orthant, the query in the opposite one
    ORTHOGONAL = "orthogonal"  # the query at right angles to all of the prompt's x
    HALF_SUBSPACE = "half subspace"  # x in a random subspace of d / 2 dimensions
    SKEWED = "skewed"  # covariance with eigenvalues ~ 1 / i^2, its trace d
    X_THIRD, X_THREE = "x / 3", "x * 3"
    Y_THIRD, Y_THREE = "y / 3", "y * 3"
    NOISE = "noise of 1"  # standard deviation, on the prompt's y


class Shifted(NamedTuple):
    """A batch whose query is its last point.

    Attributes:
        drawn: xs and ys; ys of the query is without noise.
        scale: variance of the query's y, which the error is divided by.
    """

    drawn: Drawn
    scale: Float[Array, ""]


def draw_shifted(shift: Shift, key: Key[Array, ""], rows: int, points: int, dims: int) -> Shifted:
    """A batch of linear problems under a shift.

    Args:
        shift: which.
        key: drawn from.
        rows, points, dims: B, n, d. ORTHOGONAL has as many points as have a right angle to ask
            for: at most d, its query among them.
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
            # QR's last column is at right angles to the first; as long as an x usually is.
            basis, _ = jnp.linalg.qr(jnp.swapaxes(xs, 1, 2))  # (B, d, n)
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
            turn, _ = jnp.linalg.qr(wide)
            xs = jnp.einsum("bnd,bde->bne", xs * spread[None, None], turn)
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
    return Shifted(Drawn(xs, ys), jnp.float32(factor**2 * dims))
