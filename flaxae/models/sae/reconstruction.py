"""Errors of reconstructions, and the fraction of unexplained variance of a data set."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxae.nn.linear import align


def squared_error(
    output: Float[Array, "B O"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    importance: Float[Array, " O"] | None = None,
) -> Float[Array, ""]:
    """Return the sum over rows of squared errors.

    Args:
        output: reconstructions.
        target: what they should be.
        weights: weight of each row; 0 for padding.
        importance: factor of each feature's error; None: 1.
    """
    error = output - target
    error = error if importance is None else error * align(importance, error)
    return jnp.sum(jnp.square(error).sum(-1) * weights)


def variance(x: Float[Array, "B O"], weights: Float[Array, "B"]) -> Float[Array, ""]:
    """Return the summed squared distance of rows to their mean, without gradient."""
    x = jax.lax.stop_gradient(x)
    mean = jnp.sum(x * weights[:, None], axis=0) / jnp.maximum(weights.sum(), 1e-30)
    return jnp.sum(jnp.square(x - mean[None]).sum(-1) * weights)


def reconstruction_sums(
    output: Float[Array, "B O"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    shift: Float[Array, " O"],
) -> dict[str, tuple[Array, Array]]:
    """Return the sums from which `fvu` computes the fraction of unexplained variance of a data set.

    Args:
        output: reconstructions.
        target: targets.
        weights: weight of each row.
        shift: a constant near the targets' mean, which keeps sums of squares small.
    """
    rows, target_0 = weights.sum(), target - align(shift, target)
    norms = jnp.linalg.norm(output, axis=-1), jnp.linalg.norm(target, axis=-1)
    cosine = jnp.sum(output * target, axis=-1) / jnp.maximum(norms[0] * norms[1], 1e-30)
    ratio = norms[0] / jnp.maximum(norms[1], 1e-30)
    return {
        "error": (squared_error(output, target, weights), rows),
        "square": (jnp.sum(jnp.square(target_0).sum(-1) * weights), rows),
        "first": (jnp.sum(target_0 * weights[:, None], axis=0), rows),
        "cosine": (jnp.sum(cosine * weights), rows),
        "norm_ratio": (jnp.sum(ratio * weights), rows),
    }


def fvu(sums: dict[str, tuple[Any, Any]]) -> float:
    """Return sum |x - y|^2 / sum |x - mean|^2 over a data set; nan without a spread.

    Args:
        sums: added `reconstruction_sums`.
    """
    error, square, rows = float(sums["error"][0]), float(sums["square"][0]), float(sums["error"][1])
    first = sums["first"][0]
    spread = square - float((first * first).sum()) / max(rows, 1e-30)
    return error / spread if spread > 0 else float("nan")
