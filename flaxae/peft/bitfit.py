"""Bias-only tuning (BitFit, Ben Zaken et al. 2022), and Linears that are trained in full."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxae.nn.linear import Linear, align
from flaxae.peft.layers import Adapter, AdapterParam, BiasParam, ReplacedParams, SavedParam, blended
from flaxae.task import Context


class Bias(Adapter):
    """A trained bias that replaces the base's."""

    def __init__(self, base: Linear, layers: tuple[bool, ...] = (True,)):
        assert base.bias is not None
        self.layers = layers
        self.saved = ReplacedParams({"bias": BiasParam(base.bias[...].astype(jnp.float32))}, layers)

    def after(
        self,
        base: Linear,
        x: Array,
        raw: Array,
        y: Float[Array, "... O"],
        scale: Array | None,
        ctx: Context,
    ) -> Float[Array, "... O"]:
        """Exchange the bias."""
        assert base.bias is not None
        old = base.bias[...].astype(jnp.float32)
        delta = self.saved.effective("bias", old) - old
        new = y.astype(jnp.float32) + align(delta, y)
        return blended(y, new, scale)

    def merged(
        self, kernel: Array, bias: Array | None, index: int | None
    ) -> tuple[Array, Array | None]:
        """Return the base's kernel and the trained bias."""
        assert bias is not None
        return kernel, self.saved.effective("bias", bias, index)


class SavedLinear(Adapter):
    """A trained Linear that replaces the base: one of `modules_to_save`."""

    def __init__(self, base: Linear, layers: tuple[bool, ...] = (True,)):
        values: dict[str, AdapterParam] = {}
        values["kernel"] = SavedParam(base.kernel[...].astype(jnp.float32))
        if base.bias is not None:
            values["bias"] = SavedParam(base.bias[...].astype(jnp.float32))
        self.layers = layers
        self.saved = ReplacedParams(values, layers)

    def after(
        self,
        base: Linear,
        x: Float[Array, "... I"],
        raw: Array,
        y: Float[Array, "... O"],
        scale: Array | None,
        ctx: Context,
    ) -> Float[Array, "... O"]:
        """Apply the trained Linear to x."""
        kernel = self.saved.effective("kernel", base.kernel[...]).astype(base.dtype)
        new = x.astype(base.dtype) @ kernel
        if base.bias is not None:
            bias = self.saved.effective("bias", base.bias[...]).astype(base.dtype)
            new = new + align(bias, new)
        return blended(y, new, scale)

    def merged(
        self, kernel: Array, bias: Array | None, index: int | None
    ) -> tuple[Array, Array | None]:
        """Return the trained kernel and bias."""
        kernel = self.saved.effective("kernel", kernel, index)
        return kernel, None if bias is None else self.saved.effective("bias", bias, index)
