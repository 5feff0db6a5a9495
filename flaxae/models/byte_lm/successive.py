"""A network that learns a memory without backpropagation through time, by autoencoding.

Each state is a code of the byte and of the state before it. A state that can be decoded into both
contains the whole past, as far as its size and the noise permit.

Letters: B streams, T bytes of a call, M states.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config.ranges import Count, NonNegative
from flaxae.models.byte_lm.network import BITS, ByteNetwork, Output, signed_bits
from flaxae.models.byte_lm.readout import GatedLayer, Readout, noisy, root_mean_square
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.task import Context, StreamCarry


@dataclasses.dataclass
class SuccessiveConfig(ByteLMConfig):
    """Sizes and noise of a successive autoencoder."""

    traced = ("noise",)

    states: Count = 128
    hidden: Count = 256  # units of the hidden layers of encoder and decoder
    noise: NonNegative = 0.1  # standard deviation of the noise on codes in training
    normalize: bool = True  # whether codes have a root mean square of 1 before the tanh

    def network(self, rows: int, rngs: nnx.Rngs) -> "SuccessiveAutoencoder":
        """Build the network."""
        return SuccessiveAutoencoder(self, rows, rngs)


class SuccessiveAutoencoder(ByteNetwork):
    """An autoencoder of (byte, state before) whose code is the next state.

    The loss adds the squared errors of both. They train encoder and decoder; the cross entropy of
    the next byte trains the readout alone.
    """

    def __init__(self, config: SuccessiveConfig, rows: int, rngs: nnx.Rngs):
        states, hidden = config.states, config.hidden
        self.normalize = config.normalize
        self.encoder = nnx.List(
            [GatedLayer(BITS + states, hidden, rngs), GatedLayer(hidden, states, rngs)]
        )
        self.decoder = nnx.List(
            [GatedLayer(states, hidden, rngs), GatedLayer(hidden, states + BITS, rngs)]
        )
        self.readout = Readout(states, rngs)
        self.state = StreamCarry(jnp.zeros((rows, states)))

    def encode(
        self, bits: Float[Array, "... 8"], before: Float[Array, "... M"], ctx: Context
    ) -> Float[Array, "... M"]:
        """Return the state after a byte."""
        code = jnp.concatenate([bits, before], -1)
        for i, layer in enumerate(self.encoder):
            code = layer(code, ctx.at(f"encoder_{i}"))
        if self.normalize:
            code = code / root_mean_square(code)[..., None]
        return jnp.tanh(code)

    def decode(
        self, code: Float[Array, "... M"], ctx: Context
    ) -> tuple[Float[Array, "... M"], Float[Array, "... 8"]]:
        """Return the state before, and the bits of the byte."""
        for i, layer in enumerate(self.decoder):
            code = layer(code, ctx.at(f"decoder_{i}"))
        return jnp.tanh(code[..., :-BITS]), code[..., -BITS:]

    def __call__(self, x: Int[Array, "B T"], ctx: Context) -> Output:
        """Read bytes; the states may be tapped as "state"."""
        bits = signed_bits(x)  # (B, T, 8)
        start = self.state[...]

        def step(before: Array, bits: Array) -> tuple[Array, Array]:
            state = self.encode(bits, before, ctx)
            return state, state

        found = jax.lax.scan(step, start, rearrange(bits, "B T K -> T B K"))[1]  # (T, B, M)
        found = rearrange(jax.lax.stop_gradient(found), "T B M -> B T M")
        self.state[...] = found[:, -1]
        before = jnp.concatenate([start[:, None], found[:, :-1]], 1)
        if ctx.train:
            # No gradient flows through the state before, so all bytes are encoded at once.
            state = self.encode(bits, before, ctx)
        else:
            state = found
        state = ctx.tap("state", state)
        seen = noisy(state, ctx.hparams["noise"], ctx)
        before_error, byte_error = (
            jnp.square(decoded - target).mean(-1)
            for decoded, target in zip(self.decode(seen, ctx), (before, bits), strict=True)
        )
        metrics = {
            "error_of_state": before_error,
            "error_of_byte": byte_error,
            "state_rms": root_mean_square(state),
        }
        return Output(
            self.readout(seen, ctx.at("readout")),
            before_error + byte_error,
            jax.lax.stop_gradient(metrics),
        )
