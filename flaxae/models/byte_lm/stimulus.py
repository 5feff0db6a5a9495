"""The Stimulus network: layers of units that respond to nearby inputs, and a linear readout."""

import dataclasses
import enum
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config.ranges import Count, Finite, Range
from flaxae.errors import require
from flaxae.models.byte_lm.network import BYTES, ByteNetwork, Frozen, Output
from flaxae.models.byte_lm.recurrence import cuts
from flaxae.models.byte_lm.stimulus_layer import ByteTrace, Centres, Decay, Recurrence, Weights
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.nn.linear import Linear
from flaxae.task import Context

GAIN = 2.0  # initial steepness of a response


class Learning(enum.Enum):
    """The gradient of the units' parameters."""

    FROZEN = "frozen"  # none: random units, which are never trained
    TRUNCATED = "truncated"  # backpropagation over at most `bptt` bytes
    TRACE = "trace"  # exact over the whole stream, without backpropagation into earlier updates


@dataclasses.dataclass
class StimulusConfig(ByteLMConfig):
    """Sizes and learning rule of a Stimulus network."""

    traced = ("decay", "bptt")

    states: Count = 256  # units per layer
    layers: Count = 1
    width: Count = 16  # of the bytes' vectors
    radius: Finite = -1.0  # initial radius of the first layer, from the mean distance
    learning: Learning = Learning.TRACE
    bptt: Count = 1  # of truncated learning: bytes between the cuts; `update`: none in a step
    decay: Annotated[float, Range(0, 1, "()")] = 0.95  # at the start, if it is learned
    decay_kind: Decay = Decay.FIXED
    first_version: bool = False  # s = decay (1 - v) s_before + v^2
    max_norm: bool = False  # distances are largest differences
    stored_state: bool = False  # exact learning of one layer: the state has responses of the past
    one_hot: bool = False  # the units are the bytes: the best that any frozen ones could do

    def validate(self) -> None:
        """Check combinations of fields."""
        super().validate()
        frozen, fixed = self.learning is Learning.FROZEN, self.decay_kind is Decay.FIXED
        require(
            not self.one_hot
            or (frozen and self.states == BYTES and self.layers == 1 and not self.max_norm),
            "task.one_hot=true needs task.learning=frozen, task.states=256, task.layers=1 and "
            "task.max_norm=false",
        )
        require(
            not frozen or fixed,
            "task.learning=frozen needs task.decay_kind=fixed: frozen units learn no decay",
        )
        recomputed = self.learning is Learning.TRACE and self.decay_kind is not Decay.UNIT
        require(
            not self.stored_state or (recomputed and not self.first_version),
            "task.stored_state=true needs task.learning=trace, task.decay_kind=fixed or shared and "
            "task.first_version=false: all other states are stored",
        )

    def network(self, rows: int, rngs: nnx.Rngs) -> "StimulusNetwork":
        """Build the network."""
        return StimulusNetwork(self, rows, rngs)


def mean_distances(config: StimulusConfig) -> tuple[float, float]:
    """Return the mean distances of normal inputs and of uniform inputs from the initial centres.

    The former are those of the first layer, of `width` entries, the latter those of the higher
    layers, of `states` entries between 0 and 1. Both have a deviation of at most about 1.
    """
    width, units = config.width, config.states
    if not config.max_norm:
        return math.sqrt(2 * width), math.sqrt(units / 6)
    # A largest absolute value is below x with probability P(one value below x) ** count, and its
    # mean is the integral of 1 minus that.
    step = 0.01
    below = (math.erf((i + 0.5) * step / math.sqrt(2)) for i in range(1000))
    normal = sum(step * (1 - p**width) for p in below)
    uniform = sum(step * (1 - (1 - (1 - (i + 0.5) * step) ** 2) ** units) for i in range(100))
    return math.sqrt(2) * normal, uniform


class StimulusNetwork(ByteNetwork):
    """Layers of decaying responses to stimuli, whose last one is read linearly."""

    def __init__(self, config: StimulusConfig, rows: int, rngs: nnx.Rngs):
        frozen = config.learning is Learning.FROZEN
        variable, draw = (Frozen, rngs.frozen) if frozen else (nnx.Param, rngs.params)
        self.learning, self.one_hot = config.learning, config.one_hot
        units, width = config.states, config.width
        self.embed = variable(jax.random.normal(draw(), (BYTES, width)))
        radius, higher_radius = mean_distances(config)
        first = Centres(
            jax.random.normal(draw(), (width, units)),
            radius + config.radius,
            GAIN,
            config.max_norm,
            variable,
        )
        higher = [
            Centres(
                jax.random.uniform(draw(), (units, units)),
                higher_radius,
                GAIN,
                config.max_norm,
                variable,
            )
            for _ in range(config.layers - 1)
        ]
        self.centres = nnx.List([first, *higher])
        exact = config.learning is Learning.TRACE
        one_decay = config.decay_kind is not Decay.UNIT
        recompute = exact and one_decay and not (config.first_version or config.stored_state)
        shared = config.decay_kind is Decay.SHARED
        self.recurrences = nnx.List(
            Recurrence(
                rows, units, config.decay_kind, config.first_version, bool(layer) or not recompute
            )
            for layer in range(config.layers)
        )
        self.counts = ByteTrace(rows, learned=shared) if recompute else None
        if exact:
            for layer, (centres, recurrence) in enumerate(
                zip(self.centres, self.recurrences, strict=True)
            ):
                if layer:
                    recurrence.trace(centres.weights())
                elif not recompute:
                    recurrence.trace({"responses": jnp.zeros((BYTES, units))})
        self.head = Linear(units, BYTES, use_bias=True, rngs=rngs)

    def __call__(self, x: Int[Array, "B T"], ctx: Context) -> Output:
        """Read bytes; the last layer's states may be tapped as "state"."""
        cut = cuts(x.shape[1], ctx.hparams["bptt"])
        if self.learning is Learning.TRACE:
            cut = jnp.zeros_like(cut)
        table = self.responses()
        decay = self.recurrences[0].decay(ctx.hparams["decay"])
        weights = {"responses": table, "decay": decay}
        states = self._first(weights, x, cut, ctx)
        for centres, recurrence in zip(self.centres[1:], self.recurrences[1:], strict=True):
            if not recurrence.first_version:
                states = states * (1 - decay)[None, None]  # between 0 and 1
            decay = recurrence.decay(ctx.hparams["decay"])
            weights = {**centres.weights(), "decay": decay}
            states = self._higher(centres, recurrence, weights, states, cut, ctx)
        states = ctx.tap("state", rearrange(states, "T B N -> B T N"))
        used = table[x]  # (B, T, N)
        metrics = {
            "response": used.mean(-1),
            "saturated": ((used < 0.02) | (used > 0.98)).astype(jnp.float32).mean(-1),
            "state_max": jnp.abs(states).max(-1),
            "decay": jnp.broadcast_to(decay.mean(), x.shape),
        }
        metrics = jax.lax.stop_gradient(metrics)
        return Output(self.head(states, ctx.at("head")), metrics=metrics)

    def responses(self) -> Float[Array, "256 N"]:
        """Return the responses of the first layer to each byte."""
        if self.one_hot:
            return jnp.eye(BYTES)
        first = self.centres[0]
        return first.response(first.weights(), self.embed[...])

    def weights_per_byte(self) -> int:
        """Return the number of weights used per byte; see `ByteNetwork`.

        Euclidean distances of the higher layers are matmuls with the centres. The first layer
        responds to the 256 values of a byte, once per step.
        """
        higher = sum(each.centres.size for each in self.centres[1:] if not each.max_norm)
        frozen = self.learning is Learning.FROZEN
        return super().weights_per_byte() + (higher // 3 if frozen else higher)

    def _first(self, weights: Weights, x: Array, cut: Array, ctx: Context) -> Array:
        """Return the states of the first layer, (T, B, N)."""
        recurrence, table = self.recurrences[0], weights["responses"]
        ids = rearrange(x, "B T -> T B")
        if self.counts is not None:
            start = self.counts.start(weights["decay"][0]) @ table
        else:
            start = recurrence.start(weights)
        states = recurrence.run(start, table[ids], weights["decay"], cut)
        if self.counts is not None:
            self.counts.advance(weights["decay"][0], x)
            return states
        if recurrence.traces and ctx.train:
            recurrence.advance(weights, lambda w, x: w["responses"][x], ids)
        recurrence.state[...] = jax.lax.stop_gradient(states[-1])
        return states

    def _higher(
        self,
        centres: Centres,
        recurrence: Recurrence,
        weights: Weights,
        inputs: Array,
        cut: Array,
        ctx: Context,
    ) -> Array:
        """Return the states of a higher layer, (T, B, N), for the states below, (T, B, N)."""
        start = recurrence.start(weights)
        if not recurrence.traces:
            states = recurrence.run(start, centres.response(weights, inputs), weights["decay"], cut)
        else:
            # Own weights: the exact derivative. Layers below: that of the last response only.
            stopped: Any = jax.lax.stop_gradient((inputs, weights, start))
            response = centres.response(weights, stopped[0])
            states = recurrence.run(start, response, weights["decay"], cut)
            before = jnp.concatenate([stopped[2][None], jax.lax.stop_gradient(states[:-1])])
            response = centres.response(stopped[1], inputs)
            path = recurrence.step(before, response, stopped[1]["decay"])
            states = states + (path - jax.lax.stop_gradient(path))
            if ctx.train:
                recurrence.advance(weights, centres.response, inputs)
        recurrence.state[...] = jax.lax.stop_gradient(states[-1])
        return states
