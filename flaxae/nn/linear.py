"""Linear maps, embeddings and dropout."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from flaxae.machine.sharding import gathered, split_rows
from flaxae.task import Context

PRODUCT = "product"  # checkpoint name of matmuls with weights, for recomputation policies


class Linear(nnx.Module):
    """A linear map x W (+ b); the kernel is (in, out), float32, the matmul in `dtype`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = False,
        std: float | None = None,
        dtype: jnp.dtype | type = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Draw the kernel.

        Args:
            in_features: size of the input.
            out_features: size of the output.
            use_bias: whether a bias is added, which starts at 0.
            std: standard deviation of the kernel's normal initialisation; default
                in_features ** -0.5.
            dtype: type of the computation.
            rngs: source of the initial values, its stream `params`.
        """
        scale = in_features**-0.5 if std is None else std
        kernel = jax.random.normal(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(scale * kernel)
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32)) if use_bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "... I"], ctx: Context) -> Float[Array, "... O"]:
        """Return the map's output, which may be tapped as "out"."""
        return ctx.tap("out", self.product(x, ctx))

    def product(self, x: Float[Array, "... I"], ctx: Context) -> Float[Array, "... O"]:
        """Return the map's output without recording it as a tap."""
        kernel = self.kernel[...].astype(self.dtype)
        y: Any = product(x.astype(self.dtype), gathered(kernel, *ctx.parameter("kernel")))
        y = checkpoint_name(y, PRODUCT)  # before the bias: a recomputed block may keep it
        if self.bias is not None:
            y = y + align(self.bias[...].astype(self.dtype), y)
        return split_rows(y)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(
    x: Float[Array, "... I"], kernel: Float[Array, "I O"], dtype: jnp.dtype | type | None = None
) -> Float[Array, "... O"]:
    """Return the matmul of x and a kernel.

    The kernel's gradient is a matmul over all positions, which needs one factor transposed on a
    CPU. XLA alone transposes the incoming gradient, and recomputes what produced it, column by
    column; this function transposes the narrower factor.

    Args:
        x: inputs.
        kernel: weights, of x's type.
        dtype: type of the result; None: that of x and the kernel.

    Returns:
        Outputs, of type `dtype`.
    """
    over = (((x.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(x, kernel, over, preferred_element_type=dtype)


def _product_backward(
    dtype: jnp.dtype | type | None, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    over = (((grad.ndim - 1,), (1,)), ((), ()))
    dx = jax.lax.dot_general(grad, kernel, over, preferred_element_type=x.dtype)
    x, grad = (rearrange(a, "... D -> (...) D") for a in (x, grad))  # (N, I), (N, O)
    over = (((0,), (0,)), ((), ()))
    if x.shape[1] <= grad.shape[1]:
        return dx, jax.lax.dot_general(x, grad, over, preferred_element_type=kernel.dtype)
    return dx, jax.lax.dot_general(grad, x, over, preferred_element_type=kernel.dtype).T


product.defvjp(lambda x, kernel, dtype: (product(x, kernel, dtype), (x, kernel)), _product_backward)


class Embedding(nnx.Module):
    """A table of vectors, read by index; `attend` uses it as a tied output head."""

    def __init__(
        self,
        num: int,
        features: int,
        *,
        std: float = 1.0,
        dtype: jnp.dtype | type = jnp.float32,
        rngs: nnx.Rngs,
    ):
        table = jax.random.normal(rngs.params(), (num, features), jnp.float32)
        self.table = nnx.Param(std * table)
        self.dtype = dtype

    def __call__(self, ids: Int[Array, "..."], ctx: Context) -> Float[Array, "... D"]:
        """Return the vectors of the given ids, which must be in [0, num)."""
        table = gathered(self.table[...], *ctx.parameter("table"))
        # Ids come from our tokenizers and are valid; clamping would cost a pass over them.
        return split_rows(table.at[ids].get(mode="promise_in_bounds").astype(self.dtype))

    def attend(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... V"]:
        """Return the scores of all table rows, float32."""
        table = gathered(self.table[...].astype(self.dtype), *ctx.parameter("table"))
        dims = (((x.ndim - 1,), (1,)), ((), ()))
        scores = jax.lax.dot_general(
            x.astype(self.dtype), table, dims, preferred_element_type=jnp.float32
        )
        return split_rows(scores)


def align(vector: Float[Array, "D"], like: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Return a vector with leading axes of 1, so that no rank is promoted silently."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)  # (1, ..., D)


def dropout(x: Array, rate: float, ctx: Context) -> Array:
    """Set entries to 0 with probability `rate` in training, and scale up the others."""
    if not ctx.train or rate == 0:
        return x
    keep = jax.random.bernoulli(ctx.key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))
