"""The encoder's matmul of inputs without a bias, with a cheap gradient of that bias."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from flaxae.nn.linear import align, product


# Autodiff would compute the gradient of all inputs, a matmul as large as the forward pass, and add
# its rows. The sum of the incoming rows times the kernel is the same.
@partial(jax.custom_vjp, nondiff_argnums=(3,))
def centred_product(
    x: Float[Array, "... I"],
    bias: Float[Array, " I"],
    kernel: Float[Array, "I F"],
    dtype: Any = jnp.float32,
) -> Float[Array, "... F"]:
    """Return (x - bias) kernel, float32.

    Args:
        x: inputs.
        bias: what is subtracted from each.
        kernel: weights.
        dtype: type of the factors of the matmul.
    """
    inputs = (x - align(bias, x)).astype(dtype)
    out: Any = product(inputs, kernel.astype(dtype), jnp.float32)
    return out


def _backward(dtype: Any, saved: Any, grad: Array) -> tuple[Array, Array, Array]:
    x, bias, kernel = saved
    inputs = rearrange((x - align(bias, x)).astype(dtype), "... I -> (...) I")
    rows = rearrange(grad.astype(dtype), "... F -> (...) F")
    over = (((0,), (0,)), ((), ()))
    of_kernel = jax.lax.dot_general(inputs, rows, over, preferred_element_type=jnp.float32)
    of_bias = -kernel @ rows.astype(jnp.float32).sum(0)
    of_x: Any = product(grad.astype(dtype), kernel.T.astype(dtype), jnp.float32)  # if it is used
    return of_x, of_bias, of_kernel


centred_product.defvjp(
    lambda x, bias, kernel, dtype: (centred_product(x, bias, kernel, dtype), (x, bias, kernel)),
    _backward,
)
