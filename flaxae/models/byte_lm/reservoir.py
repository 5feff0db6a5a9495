"""A random recurrent network that is never trained, and a trained readout of its state."""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config.ranges import Count, NonNegative
from flaxae.models.byte_lm.network import BITS, ByteNetwork, Frozen, Output, signed_bits
from flaxae.models.byte_lm.readout import Readout, noisy, root_mean_square
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.task import Context, StreamCarry

SQUARINGS = 10  # of a matrix whose spectral radius is computed


@dataclasses.dataclass
class ReservoirConfig(ByteLMConfig):
    """Size and scales of a reservoir; `frozen_seed` draws its weights."""

    traced = ("scale", "radius", "noise")

    states: Count = 128
    scale: NonNegative = 0.1  # standard deviation of the weights of the 8 input bits
    radius: NonNegative = 1.0  # spectral radius of the recurrent weights
    orthogonal: bool = False  # whether all eigenvalues have the absolute value `radius`
    noise: NonNegative = 0.1  # standard deviation of the readout's noise in training

    def network(self, rows: int, rngs: nnx.Rngs) -> "Reservoir":
        """Build the network."""
        return Reservoir(self, rows, rngs)


class Reservoir(ByteNetwork):
    """Random units m = tanh(W m_before + V x) for the bits x of a byte (Jaeger 2001)."""

    def __init__(self, config: ReservoirConfig, rows: int, rngs: nnx.Rngs):
        states = config.states
        matrix = jax.random.normal(rngs.frozen(), (states, states))
        matrix = jnp.linalg.qr(matrix)[0] if config.orthogonal else matrix / radius_of(matrix)
        self.recurrent = Frozen(matrix)
        self.inputs = Frozen(jax.random.normal(rngs.frozen(), (BITS, states)))
        self.readout = Readout(states, rngs)
        self.state = StreamCarry(jnp.zeros((rows, states)))

    def __call__(self, x: Int[Array, "B T"], ctx: Context) -> Output:
        """Read bytes; the states may be tapped as "state"."""
        inputs = ctx.hparams["scale"] * (signed_bits(x) @ self.inputs[...])  # (B, T, M)
        recurrent = ctx.hparams["radius"] * self.recurrent[...]

        def step(before: Array, inputs: Array) -> tuple[Array, Array]:
            state = jnp.tanh(before @ recurrent + inputs)
            return state, state

        start = self.state[...]
        states = jax.lax.scan(step, start, rearrange(inputs, "B T M -> T B M"))[1]
        self.state[...] = states[-1]
        state = ctx.tap("state", rearrange(states, "T B M -> B T M"))
        seen = noisy(state, ctx.hparams["noise"], ctx)
        metrics = {"state_rms": root_mean_square(state)}
        return Output(self.readout(seen, ctx.at("readout")), metrics=metrics)

    def weights_per_byte(self) -> int:
        """Return the number of weights used per byte; see `ByteNetwork`."""
        return super().weights_per_byte() + (self.recurrent.size + self.inputs.size) // 3


def radius_of(matrix: Float[Array, "M M"]) -> Float[Array, ""]:
    """Return the spectral radius by Gelfand's formula, the n-th root of the norm of matrix^n.

    The usual eigenvalue routine runs on CPUs only.
    """
    log = jnp.float32(0)
    power = 1
    for _ in range(SQUARINGS):
        norm = jnp.linalg.norm(matrix)
        log, matrix = log + jnp.log(norm) / power, matrix / norm
        matrix, power = matrix @ matrix, 2 * power
    return jnp.exp(log + jnp.log(jnp.linalg.norm(matrix)) / power)
