"""Feed-forward layers."""

import enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn import gpu
from flaxae.nn.linear import Linear, dropout
from flaxae.task import Context


class FeedForward(enum.Enum):
    """The kind of a feed-forward layer, named as in T5's configs."""

    RELU = "relu"  # T5 v1.0
    GATED_GELU = "gated-gelu"  # T5 v1.1, Flan, mT5, byT5; the tanh form
    GATED_SILU = "gated-silu"  # UL2


class MLP(nnx.Module):
    """T5's feed-forward layer: wo(relu(wi x)), or wo(act(wi_0 x) * wi_1 x) (Shazeer 2020)."""

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
        """Apply the layer to each token; its hidden units may be tapped as "hidden"."""
        if self.kind is FeedForward.RELU:
            hidden: Any = jax.nn.relu(self.wi(x, ctx.at("wi")))
        else:
            hidden: Any = self._gated_hidden(x, ctx)
        hidden = ctx.tap("hidden", dropout(hidden, self.dropout_rate, ctx.at("dropout")))
        return self.wo(hidden, ctx.at("wo"))

    def _gated_hidden(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... F"]:
        """Return act(wi_0 x) * wi_1 x."""
        act = "gelu" if self.kind is FeedForward.GATED_GELU else "silu"
        hidden: Any = gpu.fused_gate(x, self.wi_0, self.wi_1, act, ctx)
        if hidden is None:
            gate, up = self.wi_0(x, ctx.at("wi_0")), self.wi_1(x, ctx.at("wi_1"))
            hidden = _gated(gate, up, self.kind)
        return hidden


def _activated(gate: Array, up: Array, kind: FeedForward) -> Array:
    gelu = kind is FeedForward.GATED_GELU
    return (jax.nn.gelu(gate, approximate=True) if gelu else jax.nn.silu(gate)) * up


# Autodiff would keep the activation's intermediate results, eight arrays of this size; the backward
# pass recomputes them from the two inputs.
@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gated(gate: Array, up: Array, kind: FeedForward) -> Array:
    return _activated(gate, up, kind)


def _gated_backward(
    kind: FeedForward, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    _, pull = jax.vjp(partial(_activated, kind=kind), *saved)
    return pull(grad)


_gated.defvjp(lambda gate, up, kind: (_activated(gate, up, kind), (gate, up)), _gated_backward)
