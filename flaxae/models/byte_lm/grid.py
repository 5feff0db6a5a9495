"""Recurrent byte models on a grid of dynamics, outputs, sizes and truncated backpropagation.

A layer reads x and its incoming state s' and updates the state (see `recurrence.Dynamic`). Its
output reads x and r, which is the new state ("same step") or s'. Letters in shapes: B streams,
T bytes, W features of x, N states, H hidden features.
"""

import dataclasses
import enum
from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from flaxae.config.ranges import Count
from flaxae.errors import require
from flaxae.machine.sharding import gathered
from flaxae.models.byte_lm.network import BYTES, ByteNetwork, Output
from flaxae.models.byte_lm.recurrence import Dynamic, cuts, recur, recur_in_chunks
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.nn.linear import Embedding, Linear
from flaxae.task import Context, StreamCarry


class Readout(enum.Enum):
    """Output of a layer."""

    STATE = "state"  # r, N features
    LINEAR = "linear"  # a linear map of r and x to H features


class Truncation(enum.Enum):
    """Way to truncate backpropagation through time after k steps."""

    MASK = "mask"  # cut where t mod k = 0; k is data
    CHUNKS = "chunks"  # the same gradient by a backward pass of k steps
    WINDOW = "window"  # each loss reaches k - 1 steps back within an update; k times the cost


@dataclasses.dataclass
class GridConfig(ByteLMConfig):
    """A cell of the grid.

    `bptt`, `same_step` and `output_gate` are data: cells that differ in them share a program.
    """

    traced: ClassVar[tuple[str, ...]] = ("bptt", "same_step", "output_gate")
    truncation: ClassVar[Truncation] = Truncation.MASK

    layers: Count = 1
    states: Count = 32  # N, of each layer
    hidden: Count = 32  # H; only of the linear output
    dynamic: Dynamic = Dynamic.GATED
    readout: Readout = Readout.LINEAR
    bptt: Count = 2  # k, the steps after which gradients through time stop
    same_step: bool = True  # outputs read the new state, not the incoming one
    output_gate: bool = False  # outputs are multiplied by a gate; without it silu if linear

    @property
    def width(self) -> int:
        """Features of a layer's inputs and outputs, W."""
        return self.states if self.readout is Readout.STATE else self.hidden

    def network(self, rows: int, rngs: nnx.Rngs) -> "GridRNN":
        """Build the network."""
        return GridRNN(self, rows, rngs)


@dataclasses.dataclass
class ChunkedGridConfig(GridConfig):
    """A cell whose backward pass really stops after k steps, so that k is part of the program."""

    traced = ("same_step", "output_gate")
    truncation = Truncation.CHUNKS

    def validate(self) -> None:
        """Check that chunks fill an update."""
        super().validate()
        require(
            self.update % self.bptt == 0,
            f"task.update={self.update} is not a multiple of task.bptt={self.bptt}, the chunk",
        )


@dataclasses.dataclass
class WindowGridConfig(GridConfig):
    """A cell in which each loss reaches exactly k - 1 steps back, as a check of the others."""

    traced = ("same_step", "output_gate")
    truncation = Truncation.WINDOW


def is_reservoir(options: GridConfig) -> bool:
    """Return True for a cell whose recurrent and input maps get no gradient, as in a reservoir."""
    return options.bptt == 1 and not options.same_step


def is_blind(options: GridConfig) -> bool:
    """Return True for a cell whose outputs do not depend on the last bytes, one per layer."""
    plain = options.readout is Readout.STATE and not options.output_gate
    return plain and not options.same_step


def count_parameters(options: GridConfig) -> int:
    """Return the number of parameters, without those of an output gate that is not used."""
    n, w, gates = options.states, options.width, options.dynamic.gates
    maps = (options.readout is Readout.LINEAR) + options.output_gate
    layer = gates * (w + n + 1) * n + maps * (n + w + 1) * w
    return BYTES * w + options.layers * layer + (w + 1) * BYTES


class GridLayer(nnx.Module):
    """A recurrent layer; see the module's docstring."""

    def __init__(self, options: GridConfig, rows: int, rngs: nnx.Rngs):
        n, w = options.states, options.width
        self.dynamic, self.linear = options.dynamic, options.readout is Readout.LINEAR
        std = (n + w) ** -0.5
        total = options.dynamic.gates * n
        self.inputs = Linear(w, total, use_bias=True, std=std, rngs=rngs)
        self.recurrent = Linear(n, total, std=std, rngs=rngs)
        maps = 1 + self.linear  # the linear map and the output gate
        self.outputs = Linear(n + w, maps * w, use_bias=True, rngs=rngs)
        self.state = StreamCarry(jnp.zeros((rows, n)))

    def __call__(
        self, x: Float[Array, "B T W"], cut: Bool[Array, " T"] | int, ctx: Context
    ) -> tuple[Float[Array, "B T W"], Float[Array, "T B N"]]:
        """Return the outputs and the states, time first.

        Args:
            x: inputs.
            cut: steps that see the state before them as a constant; an int is the length of
                chunks in which gradients really stop.
            ctx: the context.
        """
        start = self.state[...]
        # Time is the first axis only in the recurrence: a mesh splits the first axis of maps.
        inputs = rearrange(self.inputs(x, ctx.at("inputs")), "B T GN -> T B GN")
        at = ctx.at("recurrent")
        weights = gathered(self.recurrent.kernel[...], *at.parameter("kernel"))
        states: Array
        if isinstance(cut, int):
            states = recur_in_chunks(self.dynamic, cut, inputs, weights, start)
            cut = cuts(len(states), cut)
        else:
            states = recur(self.dynamic, inputs, weights, start, cut)
        before = jnp.concatenate([start[None], states[:-1]])  # (T, B, N)
        before = jnp.where(cut[:, None, None], jax.lax.stop_gradient(before), before)
        r = jnp.where(ctx.hparams["same_step"] > 0, states, before)
        r = rearrange(r, "T B N -> B T N")
        maps = self.outputs(jnp.concatenate([r, x], -1), ctx.at("outputs"))
        if self.linear:
            y, gate = jnp.split(maps, 2, -1)
            gated, plain = jax.nn.sigmoid(gate) * y, jax.nn.silu(y)
        else:
            gated, plain = jax.nn.sigmoid(maps) * r, r
        return jnp.where(ctx.hparams["output_gate"] > 0, gated, plain), states


class GridRNN(ByteNetwork):
    """A cell of the grid: an embedding, recurrent layers, and scores of the next byte.

    Attributes:
        layers: the layers, each with its `state`.
        largest: largest |state| of each stream so far, only of doubly gated cells, (B,).
    """

    def __init__(self, options: GridConfig, rows: int, rngs: nnx.Rngs):
        """Draw the parameters.

        Args:
            options: the cell.
            rows: number of streams.
            rngs: source of the initial values.
        """
        self.truncation, self.bptt = options.truncation, options.bptt
        self.unbounded = options.dynamic is Dynamic.DOUBLY_GATED
        self.embed = Embedding(BYTES, options.width, rngs=rngs)
        self.layers = nnx.List([GridLayer(options, rows, rngs) for _ in range(options.layers)])
        self.head = Linear(options.width, BYTES, use_bias=True, rngs=rngs)
        if self.unbounded:
            self.largest = StreamCarry(jnp.zeros(rows))

    def __call__(self, x: Int[Array, "B T"], ctx: Context) -> Output:
        """Read bytes; the metric `max_state` of doubly gated cells is the largest |state| so far.

        Logs have few rows of a training, and a maximum of these alone would miss most updates.
        """
        steps = x.shape[1]
        features = self.embed(x, ctx.at("embed"))  # (B, T, W)
        if self.truncation is Truncation.MASK:
            top, states = self._layers(features, cuts(steps, ctx.hparams["bptt"]), ctx)
        elif self.truncation is Truncation.CHUNKS:
            top, states = self._layers(features, self.bptt, ctx)
        else:
            top, states = self._windows(features, ctx)
        for layer, each in zip(self.layers, states, strict=True):
            layer.state[...] = jax.lax.stop_gradient(each[-1])
        logits = self.head(top, ctx.at("head"))
        metrics = {}
        if self.unbounded:
            now = jnp.stack([jnp.abs(each).max(axis=(0, 2)) for each in states]).max(0)  # (B,)
            largest = jnp.maximum(self.largest[...], jax.lax.stop_gradient(now))
            self.largest[...] = largest
            metrics["max_state"] = jnp.full(x.shape, largest.max())
        return Output(logits, metrics=metrics)

    def _layers(
        self, x: Array, cut: Array | int, ctx: Context
    ) -> tuple[Array, list[Float[Array, "T B N"]]]:
        """Return the outputs of the last layer, (B, T, W), and the states of all."""
        states = []
        for i, layer in enumerate(self.layers):
            x, found = layer(x, cut, ctx.at(f"layers.{i}"))
            states.append(found)
        return x, states

    def _windows(self, x: Array, ctx: Context) -> tuple[Array, list[Array]]:
        """Return outputs and states from k passes, one per offset of the cuts.

        The values of all passes are equal. A step's output is that of the pass which is cut
        k - 1 steps before it.
        """
        place, k = jnp.arange(x.shape[1]), self.bptt
        out, states = jnp.zeros_like(x), []
        for shift in range(k):
            top, states = self._layers(x, (place - shift) % k == 0, ctx)
            chosen = (place - shift) % k == k - 1
            out = jnp.where(chosen[None, :, None], top, out)
        return out, states
