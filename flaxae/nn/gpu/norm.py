"""RMSNorm's backward pass: the gradients of x, of what x goes on to beside it, and of the scale."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from flaxae.nn.gpu.call import call

TOKENS, WARPS = 256, 8  # of one program
HELD = 16 * 768  # numbers of an array at a time: with more the registers would not do


def supported(x: Array) -> bool:
    """Whether the kernel takes x: at most 8 powers of 2 wide, rows that it can share out."""
    if x.ndim != 2 or x.shape[1] > min(8 * _part(x.shape[1]), HELD):
        return False
    return x.shape[0] % _rows(x.shape[1]) == 0


def _rows(width: int) -> int:
    """Rows at a time: a power of 2."""
    return min(16, 1 << ((HELD // width).bit_length() - 1))


def _part(width: int) -> int:
    """How many columns are held in one register array: a power of 2."""
    return min(width & -width, 1024)


def rms_norm_backward(
    x: Float[Array, "N D"],
    inverse: Float[Array, "N"],
    scale: Float[Array, "D"],
    grad: Float[Array, "N D"],
    beside: Float[Array, "N D"],
) -> tuple[Float[Array, "N D"], Float[Array, "D"]]:
    """The gradients of (x, x / rms(x) * scale).

    Args:
        x: what was normalised.
        inverse: 1 / rms(x), float32.
        scale: float32.
        grad: of the norm.
        beside: of x itself.
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
        (x, inverse, scale, grad, beside),
        out,
        (programs,),
        name="rms_norm_backward",
        warps=WARPS,
    )
    return dx, jnp.sum(parts, axis=0)


def _kernel(tokens: int, *refs: Any) -> None:
    x_ref, inverse_ref, scale_ref, grad_ref, beside_ref, dx_ref, part_ref = refs
    program, width = pl.program_id(0), x_ref.shape[1]
    size, count = _part(width), _rows(width)
    cuts = [pl.ds(i * size, size) for i in range(width // size)]
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
            dx = inverse * (grad * scale - unit * mean) + beside_ref[at, cut].astype(jnp.float32)
            dx_ref[at, cut] = dx.astype(dx_ref.dtype)
        return [s + grad * unit for s, grad, unit in zip(sums, grads, units, strict=True)]

    sums = [jnp.zeros((count, size), jnp.float32) for _ in cuts]
    sums = jax.lax.fori_loop(0, tokens // count, rows, sums)
    for cut, part in zip(cuts, sums, strict=True):
        part_ref[program, cut] = jnp.sum(part, axis=0)
