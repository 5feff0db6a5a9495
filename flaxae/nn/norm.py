"""Normalisation."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn.linear import align
from flaxae.task import Context


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, without mean or bias; the variance is float32 (Zhang & Sennrich 2019)."""

    def __init__(self, features: int, *, eps: float = 1e-6, dtype: jnp.dtype | type = jnp.float32):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... D"]:
        wide = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        y = wide * jax.lax.rsqrt(variance + self.eps) * align(self.scale[...], wide)
        return y.astype(self.dtype)
