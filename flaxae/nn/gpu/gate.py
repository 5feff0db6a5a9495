"""Gated activations of the two halves of one array, and their gradient, written as one array."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from flaxae.nn.gpu.call import call

ROWS, COLUMNS, WARPS = 2, 1024, 4  # of one program
Kind = Literal["gelu", "silu"]


def supported(rows: int, half: int) -> bool:
    """Whether the kernels take so many rows of two halves so wide."""
    return rows % ROWS == 0 and half % COLUMNS == 0


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def gated(x: Float[Array, "N 2F"], kind: Kind) -> Float[Array, "N F"]:
    """act(first half) * second half; gelu is the tanh form, written by a sigmoid."""
    return _forward(x, kind)[0]


def _forward(x: Array, kind: Kind) -> tuple[Array, Array]:
    rows, half = x.shape[0], x.shape[1] // 2
    out = jax.ShapeDtypeStruct((rows, half), x.dtype)
    kernel, grid = partial(_forward_kernel, kind), (rows // ROWS, half // COLUMNS)
    return call(kernel, (x,), out, grid, name="gated", warps=WARPS), x


def _backward(kind: Kind, x: Array, grad: Array) -> tuple[Array]:
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    kernel, grid = partial(_backward_kernel, kind), (x.shape[0] // ROWS, grad.shape[1] // COLUMNS)
    return (call(kernel, (x, grad), out, grid, name="gated_backward", warps=WARPS),)


gated.defvjp(_forward, _backward)


def _places(half: int) -> tuple[Any, Any, Any]:
    """This program's rows, its columns, and the same columns of the second half."""
    row, column = pl.program_id(0) * ROWS, pl.program_id(1) * COLUMNS
    return pl.ds(row, ROWS), pl.ds(column, COLUMNS), pl.ds(half + column, COLUMNS)


def _sigmoid_of(x: Array, kind: Kind) -> tuple[Array, Array | float]:
    """act(x) / x = sigmoid(u), and du / dx."""
    if kind == "silu":
        return jax.nn.sigmoid(x), 1.0
    c, a = 2 * (2 / jnp.pi) ** 0.5, 0.044715
    return jax.nn.sigmoid(c * (x + a * x * x * x)), c * (1 + 3 * a * x * x)


def _forward_kernel(kind: Kind, x_ref: Any, out_ref: Any) -> None:
    rows, first, second = _places(out_ref.shape[1])
    gate, up = x_ref[rows, first].astype(jnp.float32), x_ref[rows, second].astype(jnp.float32)
    out_ref[rows, first] = (gate * _sigmoid_of(gate, kind)[0] * up).astype(out_ref.dtype)


def _backward_kernel(kind: Kind, x_ref: Any, grad_ref: Any, dx_ref: Any) -> None:
    rows, first, second = _places(grad_ref.shape[1])
    gate, up = x_ref[rows, first].astype(jnp.float32), x_ref[rows, second].astype(jnp.float32)
    grad = grad_ref[rows, first].astype(jnp.float32)
    open_, slope = _sigmoid_of(gate, kind)
    dgate = grad * up * (open_ + gate * open_ * (1 - open_) * slope)
    dx_ref[rows, first] = dgate.astype(dx_ref.dtype)
    dx_ref[rows, second] = (grad * gate * open_).astype(dx_ref.dtype)
