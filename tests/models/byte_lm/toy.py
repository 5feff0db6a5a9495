"""A byte network in a few lines, for tests of what all networks share."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from flaxae.models.byte_lm.network import ByteNetwork, Output
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.nn.linear import Embedding, Linear
from flaxae.task import Context, StreamCarry


class Toy(ByteNetwork):
    """A tanh recurrence."""

    def __init__(self, rows: int, width: int, rngs: nnx.Rngs):
        self.embed = Embedding(256, width, rngs=rngs)
        self.recur = Linear(width, width, rngs=rngs)
        self.head = Linear(width, 256, rngs=rngs)
        self.state = StreamCarry(jnp.zeros((rows, width)))

    def __call__(self, x: jax.Array, ctx: Context) -> Output:
        inputs = self.embed(x, ctx.at("embed")).swapaxes(0, 1)  # (T, B, width)

        def step(state: jax.Array, one: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = jnp.tanh(one + ctx.hparams["gain"] * self.recur(state, ctx.at("recur")))
            return state, state

        last, states = jax.lax.scan(step, self.state[...], inputs)
        self.state[...] = jax.lax.stop_gradient(last)
        return Output(self.head(states.swapaxes(0, 1), ctx.at("head")))


@dataclasses.dataclass
class ToyConfig(ByteLMConfig):
    traced = ("gain",)

    width: int = 16
    gain: float = 1.0

    def network(self, rows: int, rngs: nnx.Rngs) -> Toy:
        return Toy(rows, self.width, rngs)
