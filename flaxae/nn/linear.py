"""Linear maps, embeddings and dropout."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from flaxae.machine.sharding import gathered, split_rows
from flaxae.task import Context

PRODUCT = "product"  # what policies of recomputation know matmuls with weights by


class Linear(nnx.Module):
    """y = x W (+ b). The kernel is (in, out), float32; the product is taken in `dtype`."""

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
        """Draws the kernel.

        Args:
            in_features, out_features: sizes.
            use_bias: adds a bias, which starts at 0.
            std: of the normal initialisation; default in_features ** -0.5.
            dtype: of the computation.
            rngs: `rngs.params()` is drawn from.
        """
        scale = in_features**-0.5 if std is None else std
        kernel = jax.random.normal(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(scale * kernel)
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32)) if use_bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "... I"], ctx: Context) -> Float[Array, "... O"]:
        return ctx.tap("out", self.product(x, ctx))

    def product(self, x: Float[Array, "... I"], ctx: Context) -> Float[Array, "... O"]:
        """The map itself, which nothing taps."""
        kernel = self.kernel[...].astype(self.dtype)
        y: Any = product(x.astype(self.dtype), gathered(kernel, *ctx.parameter("kernel")))
        y = checkpoint_name(y, PRODUCT)  # before the bias: what a recomputed block may keep
        if self.bias is not None:
            y = y + align(self.bias[...].astype(self.dtype), y)
        return split_rows(y)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(
    x: Float[Array, "... I"], kernel: Float[Array, "I O"], dtype: jnp.dtype | type | None = None
) -> Float[Array, "... O"]:
    """X @ kernel, in `dtype` or that of both.

    The kernel's gradient is a product over all positions, of which a CPU's matmul wants one factor
    transposed. By itself XLA transposes what comes back from above, and computes what made it once
    more on the way, column by column; here it is the narrower factor.
    """
    over = (((x.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(x, kernel, over, preferred_element_type=dtype)


def _product_backward(
    dtype: jnp.dtype | type | None, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    over = (((grad.ndim - 1,), (1,)), ((), ()))
    dx = jax.lax.dot_general(grad, kernel, over, preferred_element_type=x.dtype)
    x, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    over = (((0,), (0,)), ((), ()))
    if x.shape[1] <= grad.shape[1]:
        return dx, jax.lax.dot_general(x, grad, over, preferred_element_type=kernel.dtype)
    return dx, jax.lax.dot_general(grad, x, over, preferred_element_type=kernel.dtype).T


product.defvjp(lambda x, kernel, dtype: (product(x, kernel, dtype), (x, kernel)), _product_backward)


def joinable(*layers: Linear) -> bool:
    """Whether these layers are products and no more: no bias, no adapter, which subclasses them."""
    return all(type(layer) is Linear and layer.bias is None for layer in layers)


def joined_product(x: Float[Array, "N I"], *layers: Linear) -> Float[Array, "N _"]:
    """What several `joinable` layers make of x, side by side, by one product; on one device."""
    dtype = layers[0].dtype
    kernel = jnp.concatenate([layer.kernel[...].astype(dtype) for layer in layers], axis=1)
    return checkpoint_name(x.astype(dtype) @ kernel, PRODUCT)


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
        table = gathered(self.table[...], *ctx.parameter("table"))
        # Ids come from our own tokenizers: no clamping, which would cost a pass over the ids.
        return split_rows(table.at[ids].get(mode="promise_in_bounds").astype(self.dtype))

    def attend(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... V"]:
        """Scores of all table rows, float32."""
        table = gathered(self.table[...].astype(self.dtype), *ctx.parameter("table"))
        dims = (((x.ndim - 1,), (1,)), ((), ()))
        scores = jax.lax.dot_general(
            x.astype(self.dtype), table, dims, preferred_element_type=jnp.float32
        )
        return split_rows(scores)


def align(vector: Float[Array, "D"], like: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """A vector with leading axes of 1, so that no rank is promoted silently."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def dropout(x: Array, rate: float, ctx: Context) -> Array:
    """Zeroes entries with probability `rate` in training; the rest is scaled up."""
    if not ctx.train or rate == 0:
        return x
    keep = jax.random.bernoulli(ctx.key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))
