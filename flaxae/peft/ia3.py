"""(IA)^3 (Liu et al. 2022) on a Linear: one factor per feature of the output, or of the input."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxae.nn.linear import Linear, align
from flaxae.peft.layers import Adapter, IA3Param, layer_of, mask
from flaxae.task import Context


class IA3(Adapter):
    """l * (W x + b), or W (l * x) + b for a feed-forward module.

    Attributes:
        factors: (O), or (I) for a feed-forward module; (L, ...) in a stack.
        feedforward: the input is scaled instead of the output.
    """

    def __init__(
        self, base: Linear, *, feedforward: bool, stacked: bool, layers: tuple[bool, ...] = (True,)
    ):
        shape = base.kernel.shape
        width = shape[-2] if feedforward else shape[-1]
        self.factors = IA3Param(jnp.ones((*shape[:1], width) if stacked else width, jnp.float32))
        self.feedforward, self.layers, self.on = feedforward, layers, mask(layers)

    def before(self, x: Float[Array, "... I"], scale: Array | None) -> Float[Array, "... I"]:
        """Scale the input of a feed-forward module."""
        return self._scaled(x, scale) if self.feedforward else x

    def after(
        self,
        base: Linear,
        x: Array,
        raw: Array,
        y: Float[Array, "... O"],
        scale: Array | None,
        ctx: Context,
    ) -> Float[Array, "... O"]:
        """Scale the output, unless it is a feed-forward module."""
        return y if self.feedforward else self._scaled(y, scale)

    def _scaled(self, x: Array, scale: Array | None) -> Array:
        factors = align(self._effective(None), x)
        if scale is not None:  # scale 0 makes exactly 1, scale 1 exactly the factor
            factors = (1 - scale) + scale * factors
        return (x.astype(jnp.float32) * factors).astype(x.dtype)

    def _effective(self, index: int | None) -> Array:
        factors = layer_of(self.factors, index)
        return factors if self.on is None else jnp.where(layer_of(self.on, index) > 0, factors, 1.0)

    def merged(
        self, kernel: Array, bias: Array | None, index: int | None
    ) -> tuple[Array, Array | None]:
        """Return the kernel and bias, multiplied by the factors."""
        factors = self._effective(index)
        if self.feedforward:
            return kernel * factors[:, None], bias
        return kernel * factors[None], None if bias is None else bias * factors
