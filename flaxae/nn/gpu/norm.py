"""RMSNorm of a residual stream: the sum before the norm, and the gradients of both in one pass."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from flaxae.nn.gpu.call import call

TOKENS = 64  # per program of the backward pass
IN_REGISTERS = 4 * 768  # numbers of an array at a time if rows are short: one row per warp
WIDEST = 4096  # columns per row; wider rows exceed the registers


def supported(x: Array) -> bool:
    """Return True if the kernels take x: a width of at most 8 parts, and divisible rows."""
    if x.ndim != 2 or x.shape[1] > min(8 * _part(x.shape[1]), WIDEST):
        return False
    return x.shape[0] % _rows(x.shape[1]) == 0


def _rows(width: int) -> int:
    """Return the number of rows at a time, a power of 2."""
    return min(16, 1 << (max(IN_REGISTERS // width, 1).bit_length() - 1))


def _part(width: int) -> int:
    """Return the number of columns in one register array, a power of 2."""
    return min(width & -width, 1024)


def _cuts(width: int) -> list[Any]:
    """Return the slices of columns, one per register array."""
    size = _part(width)
    return [pl.ds(i * size, size) for i in range(width // size)]


def sum_and_rms_norm(
    x: Float[Array, "N D"],
    plus: Float[Array, "N D"],
    scale: Float[Array, "D"],
    eps: float,
    dtype: jnp.dtype,
) -> tuple[Float[Array, "N D"], Float[Array, "N D"], Float[Array, "N"]]:
    """Return a sum and its norm.

    Args:
        x: residual stream.
        plus: added to x, of x's type.
        scale: scale of the norm, float32.
        eps: added to the mean square.
        dtype: type of the norm.

    Returns:
        x + plus, its norm, and 1 / rms(x + plus), float32.
    """
    rows = _rows(x.shape[1])
    out = [
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct(x.shape, dtype),
        jax.ShapeDtypeStruct(x.shape[:1], jnp.float32),
    ]
    grid = (x.shape[0] // rows,)
    kernel = partial(_sum_kernel, rows, eps)
    return tuple(call(kernel, (x, plus, scale), out, grid, name="sum_and_rms_norm"))


def _sum_kernel(rows: int, eps: float, *refs: Any) -> None:
    x_ref, plus_ref, scale_ref, sum_ref, out_ref, inverse_ref = refs
    at, cuts = pl.ds(pl.program_id(0) * rows, rows), _cuts(x_ref.shape[1])
    sums = [x_ref[at, cut] + plus_ref[at, cut] for cut in cuts]
    square = jnp.zeros(rows, jnp.float32)
    for part in sums:
        square = square + jnp.sum(jnp.square(part.astype(jnp.float32)), axis=1)
    inverse = jax.lax.rsqrt(square / x_ref.shape[1] + eps)
    inverse_ref[at] = inverse
    for cut, part in zip(cuts, sums, strict=True):
        sum_ref[at, cut] = part
        out = part.astype(jnp.float32) * inverse[:, None] * scale_ref[cut][None, :]
        out_ref[at, cut] = out.astype(out_ref.dtype)


def rms_norm_backward(
    x: Float[Array, "N D"],
    inverse: Float[Array, "N"],
    scale: Float[Array, "D"],
    grad: Float[Array, "N D"],
    extra: Float[Array, "N D"],
) -> tuple[Float[Array, "N D"], Float[Array, "D"]]:
    """Return the gradients of (x, x / rms(x) * scale).

    Args:
        x: argument of the norm.
        inverse: 1 / rms(x), float32.
        scale: scale of the norm, float32.
        grad: gradient of the norm's output.
        extra: gradient that reaches x directly, not through the norm.

    Returns:
        The gradients of x, in x's dtype, and of the scale, float32.
    """
    rows, width = x.shape
    tokens = TOKENS
    while rows % tokens:
        tokens //= 2
    programs = rows // tokens
    out = [
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct((programs, width), jnp.float32),
    ]
    dx, parts = call(
        partial(_kernel, tokens),
        (x, inverse, scale, grad, extra),
        out,
        (programs,),
        name="rms_norm_backward",
    )
    return dx, jnp.sum(parts, axis=0)


def _kernel(tokens: int, *refs: Any) -> None:
    x_ref, inverse_ref, scale_ref, grad_ref, extra_ref, dx_ref, part_ref = refs
    program, width = pl.program_id(0), x_ref.shape[1]
    size, count, cuts = _part(width), _rows(width), _cuts(width)
    scales = [scale_ref[cut][None, :] for cut in cuts]

    def rows(n: Any, sums: list[Array]) -> list[Array]:
        at = pl.ds(program * tokens + n * count, count)
        inverse = inverse_ref[at][:, None]
        units = [x_ref[at, cut].astype(jnp.float32) * inverse for cut in cuts]
        grads = [grad_ref[at, cut].astype(jnp.float32) for cut in cuts]
        dot = jnp.zeros(count, jnp.float32)
        for grad, scale, unit in zip(grads, scales, units, strict=True):
            dot = dot + jnp.sum(grad * scale * unit, axis=1)
        mean = (dot / width)[:, None]
        for cut, grad, scale, unit in zip(cuts, grads, scales, units, strict=True):
            dx = inverse * (grad * scale - unit * mean) + extra_ref[at, cut].astype(jnp.float32)
            dx_ref[at, cut] = dx.astype(dx_ref.dtype)
        return [s + grad * unit for s, grad, unit in zip(sums, grads, units, strict=True)]

    sums = [jnp.zeros((count, size), jnp.float32) for _ in cuts]
    sums = jax.lax.fori_loop(0, tokens // count, rows, sums)
    for cut, part in zip(cuts, sums, strict=True):
        part_ref[program, cut] = jnp.sum(part, axis=0)


# The fused operations below are differentiated as a whole. The forward pass of `norm_with_input` is
# plain JAX, as in `flaxae.nn.norm`.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def norm_with_input(
    x: Float[Array, "N D"], scale: Float[Array, "D"], eps: float, dtype: jnp.dtype
) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
    """Return x and its norm.

    Args:
        x: residual stream.
        scale: scale of the norm, float32.
        eps: added to the mean square.
        dtype: type of the norm.

    Returns:
        x, and x / rms(x) * scale.
    """
    return _norm_with_input_forward(x, scale, eps, dtype)[0]


def _norm_with_input_forward(
    x: Array, scale: Array, eps: float, dtype: jnp.dtype
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    y = (wide * inverse * scale[None]).astype(dtype)
    return (x, y), (x, inverse, scale)


def _norm_with_input_backward(
    eps: float, dtype: jnp.dtype, saved: tuple[Array, Array, Array], grads: tuple[Array, Array]
) -> tuple[Array, Array]:
    x, inverse, scale = saved
    return rms_norm_backward(x, inverse[:, 0], scale, grads[1], grads[0])


norm_with_input.defvjp(_norm_with_input_forward, _norm_with_input_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def add_and_norm(
    x: Float[Array, "N D"],
    plus: Float[Array, "N D"],
    scale: Float[Array, "D"],
    eps: float,
    dtype: jnp.dtype,
) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
    """Return x + plus and its norm; see `norm_with_input`."""
    return sum_and_rms_norm(x, plus, scale, eps, dtype)[:2]


def _add_and_norm_forward(
    x: Array, plus: Array, scale: Array, eps: float, dtype: jnp.dtype
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    both, y, inverse = sum_and_rms_norm(x, plus, scale, eps, dtype)
    return (both, y), (both, inverse, scale)


def _add_and_norm_backward(
    eps: float, dtype: jnp.dtype, saved: tuple[Array, Array, Array], grads: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    both, inverse, scale = saved
    dx, dscale = rms_norm_backward(both, inverse, scale, grads[1], grads[0])
    return dx, dx, dscale


add_and_norm.defvjp(_add_and_norm_forward, _add_and_norm_backward)
