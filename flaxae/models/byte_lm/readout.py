"""Parts that the memory networks share: gated layers, and a readout of a given state."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.models.byte_lm.network import BYTES
from flaxae.nn.linear import Linear
from flaxae.task import Context

HIDDEN = 256  # units of the readout's hidden layer


class GatedLayer(nnx.Module):
    """A layer of linear units with gates: (W x + b) * sigmoid(V x + c) (Dauphin et al. 2017)."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.value = Linear(inputs, outputs, use_bias=True, rngs=rngs)
        self.gate = Linear(inputs, outputs, use_bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "... I"], ctx: Context) -> Float[Array, "... O"]:
        """Return the gated values."""
        return self.value(x, ctx.at("value")) * nnx.sigmoid(self.gate(x, ctx.at("gate")))


class Readout(nnx.Module):
    """Scores of the next byte from a state, by a hidden layer.

    No gradient flows into the state.
    """

    def __init__(self, states: int, rngs: nnx.Rngs):
        self.hidden = Linear(states, HIDDEN, use_bias=True, rngs=rngs)
        self.out = Linear(HIDDEN, BYTES, use_bias=True, rngs=rngs)

    def __call__(self, state: Float[Array, "... M"], ctx: Context) -> Float[Array, "... 256"]:
        """Return the scores."""
        state = jax.lax.stop_gradient(state)
        hidden: Any = nnx.silu(self.hidden(state, ctx.at("hidden")))
        return self.out(hidden, ctx.at("out"))


def noisy(state: Float[Array, "..."], std: Array | float, ctx: Context) -> Float[Array, "..."]:
    """Return the state with normal noise in training."""
    if not ctx.train:
        return state
    return state + std * jax.random.normal(ctx.at("noise").key, state.shape)


def root_mean_square(x: Float[Array, "... M"]) -> Float[Array, "..."]:
    """Return the root mean square over the last axis."""
    return jnp.sqrt(jnp.square(x).mean(-1) + 1e-12)
