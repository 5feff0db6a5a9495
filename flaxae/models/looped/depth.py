"""The number of loops of a training step: fixed, growing with the step, or random; all traced."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key


def grown(
    step: Int[Array, ""], start: Array | int, end: Array | int, by: int, every: int
) -> Int[Array, ""]:
    """Return a number that grows with the step.

    Args:
        step: training step.
        start: number at step 0.
        end: largest number.
        by: increment.
        every: steps between increments; 0: the number is `end` from the start.

    Returns:
        The number at this step.
    """
    if not every:
        return jnp.asarray(end)
    return jnp.minimum(jnp.asarray(end), jnp.asarray(start) + by * (step // every))


def random_loops(
    key: Key[Array, ""], mean: Int[Array, ""] | int, sigma: float, most: Int[Array, ""] | int
) -> Int[Array, ""]:
    """Draw a Poisson-lognormal number of loops, at least 1 (arXiv 2502.05171, section 3.3).

    Args:
        key: random key.
        mean: mean of the number of loops, before it is limited.
        sigma: standard deviation of the logarithm of the rate.
        most: largest number, which bounds the time of a step.

    Returns:
        The number of loops, int32.
    """
    rate_key, count_key = jax.random.split(key)
    less = jnp.maximum(jnp.asarray(mean).astype(jnp.float32) - 1, 1e-3)
    noise = sigma * jax.random.normal(rate_key, (), jnp.float32)
    rate = jnp.exp(jnp.log(less) - sigma**2 / 2 + noise)
    drawn = jax.random.poisson(count_key, rate, (), jnp.int32)
    return jnp.clip(1 + drawn, 1, most)
