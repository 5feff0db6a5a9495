"""Normalisation."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn import gpu
from flaxae.nn.linear import align
from flaxae.task import Context


class RMSNorm(nnx.Module):
    """RMS norm, x / rms(x) * scale (Zhang & Sennrich 2019); the mean square is float32."""

    def __init__(self, features: int, *, eps: float = 1e-6, dtype: jnp.dtype | type = jnp.float32):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... D"]:
        """Return x normalised over its last axis."""
        scale = self.scale[...].astype(jnp.float32)
        return _rms_norm(x, scale, self.eps, jnp.dtype(self.dtype))

    def add_and_norm(
        self, x: Float[Array, "N D"], ctx: Context, plus: Float[Array, "N D"] | None = None
    ) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
        """Return x, or x + plus, and its norm; on a GPU the gradients of both meet in one kernel.

        Args:
            x: the residual stream.
            ctx: the layer's context.
            plus: added to x before the norm; None: nothing.

        Returns:
            The residual stream and its norm.
        """
        if type(self) is RMSNorm:  # an adapter subclasses it
            both = gpu.fused_norm(x, plus, self.scale[...], self.eps, self.dtype, ctx)
            if both is not None:
                return both
        x = x if plus is None else x + plus
        return x, self(x, ctx)


# Autodiff would keep several float32 arrays of x's size; x itself and one number per row suffice.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rms_norm(x: Array, scale: Array, eps: float, dtype: jnp.dtype) -> Array:
    return _rms_norm_forward(x, scale, eps, dtype)[0]


def _rms_norm_forward(
    x: Array, scale: Array, eps: float, dtype: jnp.dtype
) -> tuple[Array, tuple[Array, Array, Array]]:
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * inverse * align(scale, wide)).astype(dtype), (x, inverse, scale)


def _rms_norm_backward(
    eps: float, dtype: jnp.dtype, saved: tuple[Array, Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, inverse, scale = saved
    unit, grad = x.astype(jnp.float32) * inverse, grad.astype(jnp.float32)
    scaled = grad * align(scale, grad)
    dx = inverse * (scaled - unit * jnp.mean(scaled * unit, axis=-1, keepdims=True))
    return dx.astype(x.dtype), jnp.sum(grad * unit, axis=tuple(range(x.ndim - 1)))


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias; mean and variance are float32 (Ba et al. 2016)."""

    def __init__(self, features: int, *, eps: float = 1e-5, dtype: jnp.dtype | type = jnp.float32):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... D"]:
        """Return x normalised over its last axis."""
        scale, bias = (p[...].astype(jnp.float32) for p in (self.scale, self.bias))
        return _layer_norm(x, scale, bias, self.eps, jnp.dtype(self.dtype))


# As for _rms_norm: autodiff would keep intermediate arrays.
@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _layer_norm(x: Array, scale: Array, bias: Array, eps: float, dtype: jnp.dtype) -> Array:
    return _layer_norm_forward(x, scale, bias, eps, dtype)[0]


def _layer_norm_forward(
    x: Array, scale: Array, bias: Array, eps: float, dtype: jnp.dtype
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide - mean
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    y = wide * inverse * align(scale, wide) + align(bias, wide)
    return y.astype(dtype), (x, mean, inverse, scale)


def _layer_norm_backward(
    eps: float, dtype: jnp.dtype, saved: tuple[Array, Array, Array, Array], grad: Array
) -> tuple[Array, Array, Array]:
    x, mean, inverse, scale = saved
    unit, grad = (x.astype(jnp.float32) - mean) * inverse, grad.astype(jnp.float32)
    scaled = grad * align(scale, grad)
    along = jnp.mean(scaled * unit, axis=-1, keepdims=True)
    dx = inverse * (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - unit * along)
    rows = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), jnp.sum(grad * unit, axis=rows), jnp.sum(grad, axis=rows)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
