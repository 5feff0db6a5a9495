"""Reading and writing bytes with a trained network, in parts and in constant memory."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.models.byte_lm.network import ByteNetwork
from flaxae.task import Context, StreamCarry, Taps


class Reader(NamedTuple):
    """A trained network without the state of its streams.

    Attributes:
        graphdef: the module's static part.
        weights: its variables but for the state of streams.
        empty: the state of a single stream at its start.
        hparams: values of the traced fields.
    """

    graphdef: Any
    weights: Any
    empty: Any
    hparams: dict[str, Array]

    @classmethod
    def of(cls, network: ByteNetwork, hparams: dict[str, Array]) -> "Reader":
        """Split a network whose state is for any number of streams.

        Args:
            network: the network.
            hparams: see `flaxae.training.hparams.make_hparams`.
        """
        graphdef, streams, weights = nnx.split(network, StreamCarry, ...)
        empty = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), streams)
        return cls(graphdef, weights, empty, hparams)

    def zero(self, rows: int) -> Any:
        """Return the state of streams at their start."""
        return jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), self.empty)

    def read(self, state: Any, x: Int[Array, "B T"]) -> tuple[Float[Array, "B T 256"], Any]:
        """Read bytes of B streams.

        Args:
            state: state of the streams.
            x: bytes.

        Returns:
            Scores of the byte after each, and the new state.
        """
        return _read(self.graphdef, self.weights, self.hparams, state, x)

    def write(
        self,
        state: Any,
        logits: Float[Array, "B 256"],
        key: Array,
        count: int,
        temperature: float,
    ) -> tuple[Int[Array, "B count"], Any]:
        """Generate bytes.

        Args:
            state: state of the streams.
            logits: scores of the first byte.
            key: random key.
            count: bytes per stream.
            temperature: divisor of the scores; 0: the likeliest byte.

        Returns:
            The bytes, and the state after them.
        """
        at = jnp.float32(temperature)
        args = (self.graphdef, self.weights, self.hparams, state, logits, key, at)
        return _write(*args, count=count)


def apply(
    graphdef: Any, weights: Any, hparams: Any, state: Any, x: Array, taps: Taps | None = None
) -> tuple[Array, Any]:
    """Return the scores and the new state after bytes, (B, T), inside of a compiled function.

    Args:
        graphdef: see `Reader`, likewise `weights` and `hparams`.
        weights: the weights.
        hparams: the traced fields.
        state: state of the streams.
        x: bytes.
        taps: recorder of values inside of the network.
    """
    network = nnx.merge(graphdef, state, weights)
    ctx = Context(jax.random.key(0), jnp.int32(0), hparams=hparams, taps=taps or Taps())
    logits = network(x, ctx).logits
    return logits, nnx.split(network, StreamCarry, ...)[1]


@functools.partial(jax.jit, static_argnums=0)
def _read(graphdef: Any, weights: Any, hparams: Any, state: Any, x: Array) -> tuple[Array, Any]:
    return apply(graphdef, weights, hparams, state, x)


@functools.partial(jax.jit, static_argnums=0, static_argnames="count")
def _write(
    graphdef: Any,
    weights: Any,
    hparams: Any,
    state: Any,
    logits: Array,
    key: Array,
    temperature: Array,
    *,
    count: int,
) -> tuple[Array, Any]:
    def step(before: Any, key: Array) -> Any:
        state, logits = before
        scaled = logits / jnp.maximum(temperature, 1e-6)
        sampled = jax.random.categorical(key, scaled)
        byte = jnp.where(temperature > 0, sampled, logits.argmax(-1)).astype(jnp.int32)  # (B,)
        logits, state = apply(graphdef, weights, hparams, state, byte[:, None])
        return (state, logits[:, 0]), byte

    (state, _), made = jax.lax.scan(step, (state, logits), jax.random.split(key, count))
    return made.T, state  # (B, count)
