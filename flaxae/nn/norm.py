"""Normalisation."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn import gpu
from flaxae.nn.gpu import norm
from flaxae.nn.linear import align
from flaxae.task import Context


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, without mean or bias; the variance is float32 (Zhang & Sennrich 2019)."""

    def __init__(self, features: int, *, eps: float = 1e-6, dtype: jnp.dtype | type = jnp.float32):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... D"]:
        scale = self.scale[...].astype(jnp.float32)
        return _rms_norm(x, scale, self.eps, jnp.dtype(self.dtype))

    def beside(
        self, x: Float[Array, "N D"], ctx: Context, plus: Float[Array, "N D"] | None = None
    ) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
        """x, or x + plus, and its norm; the gradients of both meet in one pass.

        Args:
            x: what goes on.
            ctx: of the layer.
            plus: is added to x first.

        Returns:
            Both.
        """
        plain = type(self) is RMSNorm  # an adapter makes it a class of its own
        alike = plus is None or plus.shape == x.shape
        if plain and alike and norm.supported(x) and gpu.usable(ctx, x.shape[0], self.dtype):
            scale, dtype = self.scale[...].astype(jnp.float32), jnp.dtype(self.dtype)
            if plus is None:
                return _beside(x, scale, self.eps, dtype)
            return _sum_beside(x, plus, scale, self.eps, dtype)
        x = x if plus is None else x + plus
        return x, self(x, ctx)


# Autodiff would keep several float32 arrays of x's size; x as it came and a number a row do.
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


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _beside(x: Array, scale: Array, eps: float, dtype: jnp.dtype) -> tuple[Array, Array]:
    return x, _rms_norm_forward(x, scale, eps, dtype)[0]


def _beside_forward(
    x: Array, scale: Array, eps: float, dtype: jnp.dtype
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    y, saved = _rms_norm_forward(x, scale, eps, dtype)
    return (x, y), saved


def _beside_backward(
    eps: float, dtype: jnp.dtype, saved: tuple[Array, Array, Array], grads: tuple[Array, Array]
) -> tuple[Array, Array]:
    x, inverse, scale = saved
    return norm.rms_norm_backward(x, inverse[:, 0], scale, grads[1], grads[0])


_beside.defvjp(_beside_forward, _beside_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _sum_beside(
    x: Array, plus: Array, scale: Array, eps: float, dtype: jnp.dtype
) -> tuple[Array, Array]:
    return norm.sum_and_rms_norm(x, plus, scale, eps, dtype)[:2]


def _sum_beside_forward(
    x: Array, plus: Array, scale: Array, eps: float, dtype: jnp.dtype
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    both, y, inverse = norm.sum_and_rms_norm(x, plus, scale, eps, dtype)
    return (both, y), (both, inverse, scale)


def _sum_beside_backward(
    eps: float, dtype: jnp.dtype, saved: tuple[Array, Array, Array], grads: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    both, inverse, scale = saved
    dx, dscale = norm.rms_norm_backward(both, inverse, scale, grads[1], grads[0])
    return dx, dx, dscale


_sum_beside.defvjp(_sum_beside_forward, _sum_beside_backward)


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias; mean and variance are float32 (Ba et al. 2016)."""

    def __init__(self, features: int, *, eps: float = 1e-5, dtype: jnp.dtype | type = jnp.float32):
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... D"]:
        scale, bias = (p[...].astype(jnp.float32) for p in (self.scale, self.bias))
        return _layer_norm(x, scale, bias, self.eps, jnp.dtype(self.dtype))


# As _rms_norm: autodiff would keep what it makes on the way.
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
