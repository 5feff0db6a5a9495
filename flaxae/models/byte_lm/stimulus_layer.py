"""The layer of the Stimulus network: units that respond to inputs near their centre and decay.

A unit's response v reads the input only, so its state s = decay * s_before + v depends on its own
parameters only, and the derivatives of s with respect to these can be carried along the stream:
real-time recurrent learning at the cost of one array per stream (Williams & Zipser 1989; SnAp-1 of
Menick et al. 2021 is the same for the layers below).

Letters: B streams, T bytes of a call, N units, D width of the input.
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp
from einops import reduce
from flax import nnx
from jaxtyping import Array, Bool, Float

from flaxae.nn.linear import align
from flaxae.task import StreamCarry

EPS = 1e-6  # under the root of the distance, whose derivative at 0 is infinite

Weights = dict[str, Array]  # arrays (..., N) that only the unit of their last index depends on


class Decay(enum.Enum):
    """The factor by which states shrink per byte."""

    FIXED = "fixed"
    SHARED = "shared"  # learned, one for all units
    UNIT = "unit"  # learned for each unit


class Centres(nnx.Module):
    """The response of units to an input: sigmoid(gain * (radius - distance to the centre))."""

    def __init__(
        self,
        centres: Float[Array, "D N"],
        radius: float,
        gain: float,
        max_norm: bool,
        variable: type[nnx.Variable],
    ):
        """Wrap the parameters.

        Args:
            centres: initial centres.
            radius: initial distance at which the response is 1/2.
            gain: initial steepness.
            max_norm: whether the distance is the largest difference and not the Euclidean one.
            variable: type of the parameters.
        """
        units = centres.shape[1]
        self.centres = variable(centres)
        self.radius = variable(jnp.full(units, radius))
        self.gain = variable(jnp.full(units, gain))
        self.max_norm = max_norm

    def weights(self) -> Weights:
        """Return the parameters by name."""
        return {"centres": self.centres[...], "radius": self.radius[...], "gain": self.gain[...]}

    def response(self, weights: Weights, x: Float[Array, "... D"]) -> Float[Array, "... N"]:
        """Return the response to inputs, between 0 and 1.

        Args:
            weights: see `weights`.
            x: inputs. With `max_norm` all differences are in memory at once, (..., D, N).
        """
        distance = (max_distance if self.max_norm else distances)(x, weights["centres"])
        return nnx.sigmoid(align(weights["gain"], distance) * _from(weights["radius"], distance))


def distances(x: Float[Array, "... D"], centres: Float[Array, "D N"]) -> Float[Array, "... N"]:
    """Return Euclidean distances, smoothed at 0: sqrt(d^2 + EPS)."""
    squares = jnp.square(x).sum(-1, keepdims=True)  # (..., 1)
    squares = squares + align(jnp.square(centres).sum(0), squares) - 2 * (x @ centres)
    return jnp.sqrt(jnp.maximum(squares, 0) + EPS)


def max_distance(x: Float[Array, "... D"], centres: Float[Array, "D N"]) -> Float[Array, "... N"]:
    """Return the largest absolute difference over the input's entries."""
    return jnp.abs(x[..., None] - with_leading_axes(centres, x)).max(-2)


def with_leading_axes(
    matrix: Float[Array, "D N"], like: Float[Array, "... D"]
) -> Float[Array, "... D N"]:
    """Return a matrix with leading axes of 1, as many as inputs (..., D) have."""
    return matrix.reshape((1,) * (like.ndim - 1) + matrix.shape)  # (1, ..., D, N)


def _from(radius: Float[Array, "N"], distance: Float[Array, "... N"]) -> Float[Array, "... N"]:
    return align(radius, distance) - distance


class Recurrence(nnx.Module):
    """The states of units and, after `trace`, their derivatives with respect to their weights.

    Attributes:
        state: (B, N), 0 at a stream's start; None if it is not carried.
        traces: derivative of the state with respect to each array of weights, (B, ..., N).
    """

    def __init__(
        self, rows: int, units: int, decay: Decay, first_version: bool, carried: bool = True
    ):
        """Start the streams.

        Args:
            rows: streams, B.
            units: N.
            decay: kind of the decay.
            first_version: whether the state is decay * (1 - v) * s_before + v^2.
            carried: whether the state is carried, and not computed from a ByteTrace.
        """
        self.first_version, self.units = first_version, units
        learned = {Decay.FIXED: 0, Decay.SHARED: 1, Decay.UNIT: units}[decay]
        self.shift = nnx.Param(jnp.zeros(learned)) if learned else None
        self.state: Any = StreamCarry(jnp.zeros((rows, units))) if carried else None
        self.traces: Any = nnx.data({})

    def trace(self, weights: Weights) -> None:
        """Carry derivatives with respect to weights of these shapes, and to a learned decay."""
        rows, units = self.state[...].shape
        shapes = {name: x.shape for name, x in weights.items()}
        if self.shift is not None:
            shapes["decay"] = (units,)
        zeros = {name: jnp.zeros((rows, *shape)) for name, shape in shapes.items()}
        self.traces = nnx.data({name: StreamCarry(x) for name, x in zeros.items()})

    def decay(self, start: Float[Array, ""]) -> Float[Array, "N"]:
        """Return the decay of each unit.

        Args:
            start: the decay at the start of training.
        """
        if self.shift is None:
            return jnp.broadcast_to(start, (self.units,))
        logit = jnp.log(start) - jnp.log1p(-start)
        return jnp.broadcast_to(nnx.sigmoid(logit[None] + self.shift[...]), (self.units,))

    def step(
        self, before: Float[Array, "... N"], v: Float[Array, "... N"], decay: Float[Array, "N"]
    ) -> Float[Array, "... N"]:
        """Return the state after a response."""
        decays = align(decay, before)
        if self.first_version:
            return decays * (1 - v) * before + jnp.square(v)
        return decays * before + v

    def run(
        self,
        start: Float[Array, "... N"],
        v: Float[Array, "T ... N"],
        decay: Float[Array, "N"],
        cut: Bool[Array, "T"],
    ) -> Float[Array, "T ... N"]:
        """Return the states after each response.

        Args:
            start: state before.
            v: responses.
            decay: decays.
            cut: positions at which no gradient flows into the state before.
        """

        def one(before: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            v, cut = inputs
            state = self.step(jnp.where(cut, jax.lax.stop_gradient(before), before), v, decay)
            return state, state

        return jax.lax.scan(one, start, (v, cut))[1]

    def start(self, weights: Weights) -> Float[Array, "B N"]:
        """Return the carried state, whose derivative with respect to weights is the traces."""
        state = self.state[...]
        for name, trace in self.traces.items():
            state = state + linear(trace[...], weights[name])
        return state

    def advance(self, weights: Weights, response: Any, x: Float[Array, "T B ..."]) -> None:
        """Replace the traces by those after inputs.

        Args:
            weights: the unit's weights, with their "decay".
            response: (weights, inputs (T, ...)) -> responses (T, N).
            x: inputs.
        """
        weights, x = jax.lax.stop_gradient((weights, x))
        cut = jnp.zeros(len(x), bool)

        def last(weights: Weights, traces: Weights, state: Array, x: Array) -> Array:
            for name, trace in traces.items():
                state = state + linear(trace[None], weights[name])[0]
            states = self.run(state, response(weights, x), weights["decay"], cut)
            # A unit's weights change its own state only: the gradient of the sum has all of them.
            return states[-1].sum()

        traces = {name: trace[...] for name, trace in self.traces.items()}
        state = self.state[...]
        per_stream = jax.vmap(jax.grad(last), in_axes=(None, 0, 0, 1))
        found = per_stream(weights, jax.lax.stop_gradient(traces), state, x)
        for name, trace in self.traces.items():
            trace[...] = found[name]


def linear(trace: Float[Array, "B *I N"], weight: Float[Array, "*I N"]) -> Float[Array, "B N"]:
    """Return zeros whose derivative with respect to the weight is the trace."""
    change = weight - jax.lax.stop_gradient(weight)
    return reduce(trace * change[None], "b ... n -> b n", "sum")


class ByteTrace(nnx.Module):
    """Decayed counts of the bytes of a stream: c = decay * c_before + onehot(byte).

    With responses V (256, N) to each byte, the state of units that share one decay is c V. It is
    computed with the current V, and its derivative with respect to V is exact.

    Attributes:
        counts: (B, 256).
        slopes: derivative of the counts with respect to the decay, (B, 256).
    """

    def __init__(self, rows: int, learned: bool):
        """Start the streams.

        Args:
            rows: streams, B.
            learned: whether the decay is learned.
        """
        self.counts = StreamCarry(jnp.zeros((rows, 256)))
        self.slopes = StreamCarry(jnp.zeros((rows, 256))) if learned else None

    def start(self, decay: Float[Array, ""]) -> Float[Array, "B 256"]:
        """Return the counts, with their derivative with respect to the decay."""
        counts = self.counts[...]
        if self.slopes is not None:
            counts = counts + (decay - jax.lax.stop_gradient(decay)) * self.slopes[...]
        return counts

    def advance(self, decay: Float[Array, ""], x: Array) -> None:
        """Replace counts and slopes by those after bytes (B, T)."""
        length = x.shape[1]
        bytes_read = jax.nn.one_hot(x, 256)  # (B, T, 256)

        def after(decay: Array, counts: Array) -> Array:
            powers = decay ** jnp.arange(length - 1, -1, -1, dtype=jnp.float32)  # (T,)
            return decay**length * counts + jnp.einsum("t,btk->bk", powers, bytes_read)

        decay, counts = jax.lax.stop_gradient((decay, self.counts[...]))
        if self.slopes is None:
            self.counts[...] = after(decay, counts)
        else:
            tangents = (jnp.ones_like(decay), self.slopes[...])
            self.counts[...], self.slopes[...] = jax.jvp(after, (decay, counts), tangents)
