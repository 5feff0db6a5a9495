"""Gated activations of two halves of one array; their gradient is written as one array."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from flaxae.nn.gpu.call import call

LEAST, MOST = 1024, 2048  # columns per program, which has one row
Kind = Literal["gelu", "silu"]


def supported(half: int) -> bool:
    """Return True if the kernels take halves of this width."""
    return half % LEAST == 0


def _grid(rows: int, half: int) -> tuple[int, int]:
    return rows, half // _columns(half)


def _columns(half: int) -> int:
    return min(half & -half, MOST)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def gated(x: Float[Array, "N 2F"], kind: Kind) -> Float[Array, "N F"]:
    """Return act(first half) * second half; gelu is the tanh form, computed by a sigmoid."""
    return _forward(x, kind)[0]


def _forward(x: Array, kind: Kind) -> tuple[Array, Array]:
    rows, half = x.shape[0], x.shape[1] // 2
    out = jax.ShapeDtypeStruct((rows, half), x.dtype)
    return call(partial(_forward_kernel, kind), (x,), out, _grid(rows, half), name="gated"), x


def _backward(kind: Kind, x: Array, grad: Array) -> tuple[Array]:
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    kernel = partial(_backward_kernel, kind)
    return (call(kernel, (x, grad), out, _grid(*grad.shape), name="gated_backward"),)


gated.defvjp(_forward, _backward)


def _slices(half: int) -> tuple[Any, Any, Any]:
    """Return this program's row, its columns, and the same columns of the second half."""
    count = _columns(half)
    column = pl.program_id(1) * count
    return pl.program_id(0), pl.ds(column, count), pl.ds(half + column, count)


def _sigmoid_of(x: Array, kind: Kind) -> tuple[Array, Array | float]:
    """Return act(x) / x = sigmoid(u), and du / dx."""
    if kind == "silu":
        return jax.nn.sigmoid(x), 1.0
    c, a = 2 * (2 / jnp.pi) ** 0.5, 0.044715
    return jax.nn.sigmoid(c * (x + a * x * x * x)), c * (1 + 3 * a * x * x)


def _forward_kernel(kind: Kind, x_ref: Any, out_ref: Any) -> None:
    row, first, second = _slices(out_ref.shape[1])
    gate, up = x_ref[row, first].astype(jnp.float32), x_ref[row, second].astype(jnp.float32)
    out_ref[row, first] = (gate * _sigmoid_of(gate, kind)[0] * up).astype(out_ref.dtype)


def _backward_kernel(kind: Kind, x_ref: Any, grad_ref: Any, dx_ref: Any) -> None:
    row, first, second = _slices(grad_ref.shape[1])
    gate, up = x_ref[row, first].astype(jnp.float32), x_ref[row, second].astype(jnp.float32)
    grad = grad_ref[row, first].astype(jnp.float32)
    open_, slope = _sigmoid_of(gate, kind)
    dgate = grad * up * (open_ + gate * open_ * (1 - open_) * slope)
    dx_ref[row, first] = dgate.astype(dx_ref.dtype)
    dx_ref[row, second] = (grad * gate * open_).astype(dx_ref.dtype)
