"""Feed-forward layers."""

import enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn import gpu
from flaxae.nn.gpu import gate as kernels
from flaxae.nn.linear import Linear, dropout, joinable, joined_product
from flaxae.task import Context


class FeedForward(enum.Enum):
    RELU = "relu"  # T5 v1.0
    GATED_GELU = "gated-gelu"  # T5 v1.1, Flan, mT5, byT5; the tanh form
    GATED_SILU = "gated-silu"  # UL2


class MLP(nnx.Module):
    """wo(relu(wi x)), or wo(act(wi_0 x) * wi_1 x) (Shazeer 2020); T5's, without biases."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        kind: FeedForward,
        dropout_rate: float = 0.0,
        dtype: jnp.dtype | type = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.kind, self.dropout_rate = kind, dropout_rate
        if kind is FeedForward.RELU:
            self.wi = Linear(d_model, d_ff, dtype=dtype, rngs=rngs)
        else:
            self.wi_0 = Linear(d_model, d_ff, dtype=dtype, rngs=rngs)
            self.wi_1 = Linear(d_model, d_ff, dtype=dtype, rngs=rngs)
        self.wo = Linear(d_ff, d_model, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... D"]:
        if self.kind is FeedForward.RELU:
            hidden: Any = jax.nn.relu(self.wi(x, ctx.at("wi")))
        elif (both := self._gate_and_up(x, ctx)) is not None:
            kind = "gelu" if self.kind is FeedForward.GATED_GELU else "silu"
            hidden: Any = kernels.gated(both, kind)
        else:
            gate, up = self.wi_0(x, ctx.at("wi_0")), self.wi_1(x, ctx.at("wi_1"))
            hidden: Any = _gated(gate, up, self.kind)
        hidden = ctx.tap("hidden", dropout(hidden, self.dropout_rate, ctx.at("dropout")))
        return self.wo(hidden, ctx.at("wo"))

    def _gate_and_up(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "N 2F"] | None:
        """The products of wi_0 and wi_1 as one, where GPU kernels go on with them."""
        fits = x.ndim == 2 and kernels.supported(self.wi_0.kernel.shape[1])
        if fits and gpu.usable(ctx, x.shape[0], self.wi_0.dtype) and joinable(self.wi_0, self.wi_1):
            return joined_product(x, self.wi_0, self.wi_1)
        return None


def _activated(gate: Array, up: Array, kind: FeedForward) -> Array:
    gelu = kind is FeedForward.GATED_GELU
    return (jax.nn.gelu(gate, approximate=True) if gelu else jax.nn.silu(gate)) * up


# Autodiff would keep what the activation computes on the way, eight arrays of this size; from its
# two inputs the backward pass makes them again.
@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gated(gate: Array, up: Array, kind: FeedForward) -> Array:
    return _activated(gate, up, kind)


def _gated_backward(
    kind: FeedForward, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    _, pull = jax.vjp(partial(_activated, kind=kind), *saved)
    return pull(grad)


_gated.defvjp(lambda gate, up, kind: (_activated(gate, up, kind), (gate, up)), _gated_backward)
