"""One matmul instead of several of the same input; the kernels read its parts side by side."""

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from flaxae.nn.linear import PRODUCT, Linear


def joinable(*layers: Linear) -> bool:
    """Return True if the layers are plain matmuls: no bias, no adapter (a subclass of Linear)."""
    return all(type(layer) is Linear and layer.bias is None for layer in layers)


def joined_product(x: Float[Array, "N I"], *layers: Linear) -> Float[Array, "N _"]:
    """Return the outputs of several `joinable` layers side by side, by one matmul on one device."""
    dtype = layers[0].dtype
    kernel = jnp.concatenate([layer.kernel[...].astype(dtype) for layer in layers], axis=1)
    return checkpoint_name(x.astype(dtype) @ kernel, PRODUCT)
