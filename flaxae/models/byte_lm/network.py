"""The interface of byte networks: bytes in, scores of the next byte out, state of the streams kept.

Letters in shapes: B streams, T bytes of a stream that are read at once, N states.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.nn.linear import align
from flaxae.task import Context

BYTES = 256  # values of a byte
BITS = 8


class Frozen(nnx.Variable):
    """A random array that is drawn once and never trained, such as a reservoir's weights."""


class Output(NamedTuple):
    """The result of reading T bytes of B streams.

    Attributes:
        logits: scores of the byte that follows each byte read, float32, (B, T, 256).
        loss: further loss of the network, in nats per byte, (B, T); None: only the cross entropy of
            the next byte is minimised.
        metrics: name -> value at each position, (B, T), for the log.
    """

    logits: Float[Array, "B T 256"]
    loss: Float[Array, "B T"] | None = None
    metrics: dict[str, Float[Array, "B T"]] = {}


class ByteNetwork(nnx.Module):
    """Base class of networks that read streams of bytes.

    The state of a stream is in `flaxae.task.StreamCarry` variables, whose first axis is the stream
    and which are all zeros at a stream's start. A call reads them and replaces them by the state
    after its bytes. Reading a stream in parts of any lengths gives the same logits as reading it at
    once; gradients end at the start of a call.
    """

    def __call__(self, x: Int[Array, "B T"], ctx: Context) -> Output:
        """Read bytes.

        Args:
            x: values of the bytes, from 0 to 255.
            ctx: the context; `ctx.hparams` has the traced fields of the config.

        Returns:
            The scores of the byte after each of them.
        """
        raise NotImplementedError

    def weights_per_byte(self) -> int:
        """Return the number of trained weights that a byte is multiplied with in matmuls.

        A training step has three matmuls per weight. One that is never trained has only that of the
        forward pass, and counts a third.
        """
        flat = nnx.to_flat_state(nnx.state(self, nnx.Param))
        return sum(math.prod(var.shape) for path, var in flat if path[-1] == "kernel")


def bits(x: Int[Array, "..."]) -> Float[Array, "... 8"]:
    """Return the bits of bytes as 0 and 1, the most significant one first."""
    shifts = jnp.arange(BITS - 1, -1, -1, dtype=x.dtype)
    return ((x[..., None] >> align(shifts, x[..., None])) & 1).astype(jnp.float32)


def signed_bits(x: Int[Array, "..."]) -> Float[Array, "... 8"]:
    """Return the bits of bytes as -1 and 1, the most significant one first."""
    return 2 * bits(x) - 1


def nats(logits: Float[Array, "B T 256"], y: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """Return the negative log-probability of each next byte, in nats."""
    picked = jnp.take_along_axis(logits, y[..., None], -1)[..., 0]  # (B, T)
    return jax.nn.logsumexp(logits, -1) - picked
