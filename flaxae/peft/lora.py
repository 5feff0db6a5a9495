"""LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024) beside a Linear.

In a stack the factors of all layers are padded to the largest rank with zeros. Both a padded row of
A and the padded column of B are 0, so each one's gradient, which is a product with the other, is 0
too, and no optimizer moves them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.machine.sharding import gathered
from flaxae.nn.linear import Linear, align, dropout, product
from flaxae.peft.layers import Adapter, AdapterConstant, LoRAParam, added, layer_of
from flaxae.task import Context


class LoRA(Adapter):
    """scaling * (x A) B, and with magnitudes DoRA's m * (W + scaling A B) / |W + scaling A B|.

    Attributes:
        A: (I, R), or (L, I, R) in a stack; peft's `lora_A.weight` is its transpose.
        B: (R, O).
        magnitude: (O), or None.
        scaling: a number, or one a layer, 0 where a layer has no adapter.
        ranks: of each layer, 0 where it has no adapter; one number outside of a stack.
    """

    def __init__(
        self,
        base: Linear,
        ranks: tuple[int, ...],
        scalings: tuple[float, ...],
        *,
        stacked: bool,
        dropout_rate: float = 0.0,
        dora: bool = False,
        key: Any,
    ):
        """Draws A as peft does, U(-1/sqrt(I), 1/sqrt(I)) (Kaiming with a = sqrt 5); B is 0.

        Args:
            base: the Linear, stacked or not.
            ranks, scalings: of each layer; one where it is in no stack.
            stacked: whether it is in a stack.
            dropout_rate: of what A reads, in training.
            dora: with magnitudes, which start as the lengths of the base's weights.
            key: to draw from.
        """
        kernel = base.kernel[...]
        inner, outer = kernel.shape[-2:]
        rank, layers = max(ranks), len(ranks)
        bound = 1 / math.sqrt(inner)
        a = jax.random.uniform(key, (layers, inner, rank), jnp.float32, -bound, bound)
        real = jnp.arange(rank)[None, None] < jnp.asarray(ranks)[:, None, None]
        a, b = jnp.where(real, a, 0), jnp.zeros((layers, rank, outer), jnp.float32)
        self.A, self.B = (LoRAParam(x if stacked else x[0]) for x in (a, b))
        self.magnitude = LoRAParam(lengths(kernel)) if dora else None
        self.ranks, self.dropout_rate = ranks, dropout_rate
        self.layers = tuple(rank > 0 for rank in ranks)
        even = len(set(scalings)) == 1
        self.scaling: Any = (
            scalings[0] if even else AdapterConstant(jnp.asarray(scalings, jnp.float32))
        )

    def after(
        self,
        base: Linear,
        x: Float[Array, "... I"],
        raw: Float[Array, "... O"],
        y: Float[Array, "... O"],
        scale: Array | None,
        ctx: Context,
    ) -> Float[Array, "... O"]:
        scaling = layer_of(self.scaling, None)
        dropped = ctx.train and self.dropout_rate > 0
        read = dropout(x.astype(base.dtype), self.dropout_rate, ctx.at("dropout"))
        a, b = self.A[...], self.B[...]
        hidden = product(read, gathered(a.astype(base.dtype), *ctx.parameter("A")))
        b_used = gathered(b.astype(base.dtype), *ctx.parameter("B"))
        delta = scaling * product(hidden, b_used, jnp.float32)
        if self.magnitude is not None:
            path, rules = ctx.parameter("kernel")
            path = path.rpartition("/adapters/")[0] + "/kernel"  # the base's own
            kernel = gathered(base.kernel[...], path, rules)
            # "Treated as a constant": section 4.3 of the paper.
            norm = jax.lax.stop_gradient(updated_lengths(kernel, a, b, scaling))
            ratio = align(self.magnitude[...] / norm, delta)
            if dropped:
                plain = read @ kernel.astype(base.dtype)
            else:
                plain = (
                    raw if base.bias is None else raw - align(base.bias[...], raw).astype(raw.dtype)
                )
            delta = (ratio - 1) * plain.astype(jnp.float32) + ratio * delta
        out = added(y, delta, scale)
        uneven = isinstance(self.scaling, nnx.Variable)
        return jnp.where(scaling == 0, y, out) if uneven else out

    def merged(
        self, kernel: Array, bias: Array | None, index: int | None
    ) -> tuple[Array, Array | None]:
        a, b, scaling = (layer_of(v, index) for v in (self.A, self.B, self.scaling))
        if isinstance(self.scaling, nnx.Variable) and scaling == 0:
            return kernel, bias
        new = kernel + scaling * (a @ b)
        if self.magnitude is not None:
            magnitude = layer_of(self.magnitude, index)
            new = new * (magnitude / updated_lengths(kernel, a, b, scaling))[None]
        return new, bias


def lengths(kernel: Float[Array, "*L I O"]) -> Float[Array, "*L O"]:
    """The length of each output's weights, float32."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=-2))


def updated_lengths(
    kernel: Float[Array, "I O"],
    a: Float[Array, "I R"],
    b: Float[Array, "R O"],
    scaling: Any,
) -> Float[Array, "O"]:  # noqa: F821
    """The same of W + scaling A B, of which neither A B nor the sum is ever made."""
    kernel = kernel.astype(jnp.float32)
    own = jnp.sum(jnp.square(kernel), axis=0)
    cross = jnp.sum((a.T @ kernel) * b, axis=0)
    low = jnp.sum(((a.T @ a) @ b) * b, axis=0)
    return jnp.sqrt(own + 2 * scaling * cross + scaling**2 * low)
