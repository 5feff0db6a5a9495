"""LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024) on a Linear.

In a stack the factors of all layers are padded with zeros to the largest rank. A's padded column
and B's padded row are both 0. The gradient of each is a product with the other, so it is 0 too, and
no optimizer moves them.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from flaxae.machine.sharding import gathered
from flaxae.nn.linear import Linear, align, dropout, product
from flaxae.peft.layers import Adapter, AdapterConstant, LoRAParam, added, layer_of
from flaxae.task import Context


class LoRA(Adapter):
    """LoRA adds scaling * (x A) B; DoRA's kernel is m * (W + scaling A B) / |W + scaling A B|.

    Attributes:
        A: (I, R), or (L, I, R) in a stack; PEFT's `lora_A.weight` is its transpose.
        B: (R, O), or (L, R, O) in a stack.
        magnitude: (O), or (L, O) in a stack; None without DoRA.
        scaling: a number, or one per layer; 0 for a layer without the adapter.
        ranks: rank of each layer, 0 for a layer without the adapter; one outside of a stack.
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
        key: Key[Array, ""],
    ):
        """Draw A as PEFT does, from U(-1/sqrt(I), 1/sqrt(I)) (Kaiming with a = sqrt 5); B is 0.

        Args:
            base: the Linear, stacked or not.
            ranks: rank of each layer; one outside of a stack.
            scalings: factor of the update of each layer; one outside of a stack.
            stacked: the Linear is in a stack.
            dropout_rate: dropout rate of A's input, in training.
            dora: train magnitudes, which start as the norms of the base's weights.
            key: random key.
        """
        kernel = base.kernel[...]
        inner, outer = kernel.shape[-2:]
        rank, layers = max(ranks), len(ranks)
        bound = 1 / math.sqrt(inner)
        a = jax.random.uniform(key, (layers, inner, rank), jnp.float32, -bound, bound)
        real = jnp.arange(rank)[None, None] < jnp.asarray(ranks)[:, None, None]
        a, b = jnp.where(real, a, 0), jnp.zeros((layers, rank, outer), jnp.float32)
        self.A, self.B = (LoRAParam(x if stacked else x[0]) for x in (a, b))
        self.magnitude = LoRAParam(output_norms(kernel)) if dora else None
        self.ranks, self.dropout_rate = ranks, dropout_rate
        self.layers = tuple(rank > 0 for rank in ranks)
        uniform = len(set(scalings)) == 1
        self.scaling: Any = (
            scalings[0] if uniform else AdapterConstant(jnp.asarray(scalings, jnp.float32))
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
        """Add the update to y."""
        scaling = layer_of(self.scaling, None)
        dropped = ctx.train and self.dropout_rate > 0
        read = dropout(x.astype(base.dtype), self.dropout_rate, ctx.at("dropout"))
        a, b = self.A[...], self.B[...]
        hidden = product(read, gathered(a.astype(base.dtype), *ctx.parameter("A")))
        b_used = gathered(b.astype(base.dtype), *ctx.parameter("B"))
        delta = scaling * product(hidden, b_used, jnp.float32)
        if self.magnitude is not None:
            path, rules = ctx.parameter("kernel")
            path = path.rpartition("/adapters/")[0] + "/kernel"  # the base's
            kernel = gathered(base.kernel[...], path, rules)
            # "Treated as a constant": section 4.3 of the paper.
            norm = jax.lax.stop_gradient(updated_norms(kernel, a, b, scaling))
            ratio = align(self.magnitude[...] / norm, delta)
            if dropped:
                plain = read @ kernel.astype(base.dtype)
            else:
                plain = (
                    raw if base.bias is None else raw - align(base.bias[...], raw).astype(raw.dtype)
                )
            delta = (ratio - 1) * plain.astype(jnp.float32) + ratio * delta
        out = added(y, delta, scale)
        per_layer = isinstance(self.scaling, nnx.Variable)
        return jnp.where(scaling == 0, y, out) if per_layer else out

    def merged(
        self, kernel: Array, bias: Array | None, index: int | None
    ) -> tuple[Array, Array | None]:
        """Return the kernel with the update added, and the base's bias."""
        a, b, scaling = (layer_of(v, index) for v in (self.A, self.B, self.scaling))
        if isinstance(self.scaling, nnx.Variable) and scaling == 0:
            return kernel, bias
        new = kernel + scaling * (a @ b)
        if self.magnitude is not None:
            magnitude = layer_of(self.magnitude, index)
            new = new * (magnitude / updated_norms(kernel, a, b, scaling))[None]
        return new, bias


def output_norms(kernel: Float[Array, "*L I O"]) -> Float[Array, "*L O"]:
    """Return the norm of each output's weights, float32."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=-2))


def updated_norms(
    kernel: Float[Array, "I O"],
    a: Float[Array, "I R"],
    b: Float[Array, "R O"],
    scaling: Array | float,
) -> Float[Array, " O"]:
    """Return the norm of each output's weights of W + scaling A B, without computing A B."""
    kernel = kernel.astype(jnp.float32)
    own = jnp.sum(jnp.square(kernel), axis=0)
    cross = jnp.sum((a.T @ kernel) * b, axis=0)
    low = jnp.sum(((a.T @ a) @ b) * b, axis=0)
    return jnp.sqrt(own + 2 * scaling * cross + scaling**2 * low)
