"""The noisy channel between encoder and decoder: how noise enters codes, and what gets through.

    additive     z + sigma * noise
    preserving   sqrt(1 - sigma^2) z + sigma * noise

The preserving channel keeps a second moment of 1: if z has it, the received code has it too, at
every sigma. Its codes are on a sphere, so that a larger z cannot drown the noise. Each number then
carries at most log2(1 / sigma) bits.
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Channel(enum.Enum):
    """The form of the noise on codes."""

    ADDITIVE = "additive"
    PRESERVING = "preserving"


def transmit(
    z: Float[Array, "B L Z"],
    sigma: Float[Array, ""] | Float[Array, "B"] | float,
    channel: Channel,
    noise: Float[Array, "B L Z"],
) -> Float[Array, "B L Z"]:
    """Return the codes that the decoder receives.

    Args:
        z: clean codes, with any number of axes after the first.
        sigma: standard deviation of the noise, one for all texts or one per text; below 1 for the
            preserving channel.
        channel: the form of the noise.
        noise: a draw of N(0, I) of the codes' shape.

    Returns:
        The noisy codes; `z` itself where sigma is 0.
    """
    scale = jnp.asarray(sigma, jnp.float32)
    if scale.ndim:
        scale = jnp.expand_dims(scale, tuple(range(1, z.ndim)))  # (B, 1, 1)
    if channel is Channel.PRESERVING:
        z = jnp.sqrt(1 - jnp.square(scale)) * z
    return z + scale * noise


def on_sphere(z: Float[Array, "B L Z"]) -> Float[Array, "B L Z"]:
    """Scale each latent to norm sqrt(Z).

    Samples of N(0, I) almost have this norm, so priors, noise and the MMD keep their meaning.
    """
    squared = jnp.mean(jnp.square(z), axis=-1, keepdims=True)
    return z * jax.lax.rsqrt(squared + 1e-12)


def scheduled_sigma(
    start: float, end: Float[Array, ""] | float, steps: int, step: Int[Array, ""]
) -> Float[Array, ""]:
    """Return a sigma that changes linearly over training.

    Args:
        start: sigma at step 0.
        end: sigma from step `steps` on.
        steps: number of steps; 0: `end` from the start.
        step: the train step.
    """
    if not steps:
        return jnp.float32(end)
    share = jnp.minimum(step.astype(jnp.float32) / steps, 1.0)
    return start + (end - start) * share


def on_space(z: Float[np.ndarray, "*n L Z"], channel: Channel) -> Float[np.ndarray, "*n L Z"]:
    """Return codes as a model with this channel makes them; for codes that were changed.

    A clean code of the preserving channel has latents of norm sqrt(Z). Sums, differences and
    straight paths leave this sphere, and the decoder has never read such codes. Draws of a prior
    are not changed codes: they are decoded as drawn.

    Args:
        z: clean codes that were added, mixed or moved.
        channel: the form of the noise; codes of the additive channel stay as they are.
    """
    z = np.asarray(z, np.float32)
    if channel is not Channel.PRESERVING:
        return z
    norm = np.linalg.norm(z, axis=-1, keepdims=True)
    return z * (np.float32(np.sqrt(z.shape[-1])) / np.maximum(norm, np.float32(1e-12)))


def signal_to_noise(sigma: Float[Array, ""] | float, channel: Channel) -> Any:
    """Return the factor from the variance of clean codes to that over the variance of the noise."""
    kept = 1 - sigma * sigma if channel is Channel.PRESERVING else 1.0
    return kept / (sigma * sigma)


def bits(variances: Float[np.ndarray, " d"], sigma: float, channel: Channel) -> float:
    """Return the bits that the channel can carry about a code.

    This is sum of log2(1 + snr) / 2, the capacity of parallel Gaussian channels (Cover & Thomas
    2006, eq. 9.62). It is an upper bound of the information, reached by Gaussian codes. For the
    preserving channel and variances of 1 it is d log2(1 / sigma).

    Args:
        variances: variances of clean codes along their principal axes. Variances of single numbers
            give an upper bound.
        sigma: standard deviation of the noise; 0: the capacity is infinite.
        channel: the form of the noise.
    """
    if not sigma:
        return float("inf")
    variances = np.asarray(variances, np.float64)
    return float(0.5 * np.log2(1 + variances * signal_to_noise(float(sigma), channel)).sum())
