"""JumpReLU and its step, with straight-through gradients of the threshold.

See Rajamanoharan et al. 2024, "Jumping Ahead", eq. 11 and 12, with a rectangular window.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxae.nn.linear import align


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def jump_relu(
    z: Float[Array, "... F"], threshold: Float[Array, "F"], bandwidth: float
) -> Float[Array, "... F"]:
    """Return relu(z) where z > threshold, and 0 elsewhere.

    Args:
        z: pre-activations.
        threshold: one per latent.
        bandwidth: width of the window around the threshold in which it has a gradient.
    """
    return jnp.where(z > align(threshold, z), jax.nn.relu(z), 0)


def _jump_backward(bandwidth: float, saved: Any, grad: Array) -> tuple[Array, Array]:
    z, threshold = saved
    limit = align(threshold, z)
    inside = _window(z - limit, bandwidth)
    of_threshold = jnp.where(inside, -grad * (limit / bandwidth), 0)
    # A threshold below 0, which some files have, opens nothing below 0.
    return jnp.where(z > jnp.maximum(limit, 0), grad, 0), _over_rows(of_threshold)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def step(
    z: Float[Array, "... F"], threshold: Float[Array, "F"], bandwidth: float
) -> Float[Array, "... F"]:
    """Return 1 where z > threshold, and 0 elsewhere; only the threshold has a gradient."""
    return (z > align(threshold, z)).astype(z.dtype)


def _step_backward(bandwidth: float, saved: Any, grad: Array) -> tuple[Array, Array]:
    z, threshold = saved
    inside = _window(z - align(threshold, z), bandwidth)
    return jnp.zeros_like(z), _over_rows(jnp.where(inside, -grad / bandwidth, 0))


def _window(distance: Array, bandwidth: float) -> Array:
    return jnp.abs(distance) < bandwidth / 2


def _over_rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1]).sum(0)


jump_relu.defvjp(lambda z, t, width: (jump_relu(z, t, width), (z, t)), _jump_backward)
step.defvjp(lambda z, t, width: (step(z, t, width), (z, t)), _step_backward)
