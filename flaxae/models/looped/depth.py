"""How many loops a step runs: fixed, growing with the step, or drawn; all traced."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key


def grown(
    step: Int[Array, ""], start: Array | int, end: Array | int, by: int, every: int
) -> Int[Array, ""]:
    """Start + by for each `every` steps done, at most end; `every` = 0: end."""
    if not every:
        return jnp.asarray(end)
    return jnp.minimum(jnp.asarray(end), jnp.asarray(start) + by * (step // every))


def random_loops(
    key: Key[Array, ""], mean: Int[Array, ""] | int, sigma: float, most: Int[Array, ""] | int
) -> Int[Array, ""]:
    """1 + a Poisson-lognormal number of mean about `mean` (arXiv 2502.05171, section 3.3).

    Args:
        key: drawn from.
        mean: of the number of loops.
        sigma: of the log-rate.
        most: the largest number, which bounds the time of a step.
    """
    rate_key, count_key = jax.random.split(key)
    less = jnp.maximum(jnp.asarray(mean).astype(jnp.float32) - 1, 1e-3)
    noise = sigma * jax.random.normal(rate_key, (), jnp.float32)
    rate = jnp.exp(jnp.log(less) - sigma**2 / 2 + noise)
    drawn = jax.random.poisson(count_key, rate, (), jnp.int32)
    return jnp.clip(1 + drawn, 1, most)
