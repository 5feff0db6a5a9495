"""A recurrent byte model made for one run: the grid's cell without what only lanes need.

The function is that of `grid.GridRNN` with a linear readout, the new state as its input and no
output gate. The first layer's maps of the embedding are computed once per value of a byte, not once
per byte read. Letters in shapes: B streams, T bytes, W features of x, N states, G gates, H hidden
features.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from flaxae.config.ranges import Count, Counts
from flaxae.machine.sharding import gathered, split_rows
from flaxae.models.byte_lm.network import BYTES, ByteNetwork, Output
from flaxae.models.byte_lm.ngrams import NGrams, check_sizes
from flaxae.models.byte_lm.recurrence import Dynamic, cuts, recur
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.nn.linear import Embedding, Linear, align, product
from flaxae.task import Context, StreamCarry


@dataclasses.dataclass
class CellConfig(ByteLMConfig):
    """Recurrent layers with linear readouts."""

    traced: ClassVar[tuple[str, ...]] = ("bptt",)

    layers: Count = 1
    states: Count = 512  # N, of each layer
    hidden: Count = 256  # H, features of the embedding and of the readouts
    dynamic: Dynamic = Dynamic.GATED
    bptt: Count = 16  # steps after which gradients through time stop, at most `update`
    ngrams: Counts = ()  # lengths of the n-grams with learned vectors, such as (2, 3, 4)
    ngram_rows: Count = 2**16  # vectors per length, a power of two; n-grams share them by a hash
    ngram_features: Count = 64  # numbers of a vector

    def validate(self) -> None:
        """Check the n-grams' lengths and the number of their vectors."""
        super().validate()
        if self.ngrams:
            check_sizes(self.ngrams, self.ngram_rows)

    def network(self, rows: int, rngs: nnx.Rngs) -> "CellRNN":
        """Build the network."""
        return CellRNN(self, rows, rngs)


class CellLayer(nnx.Module):
    """A recurrent layer and its readout: y = silu(P [r; x]), r being the new state."""

    def __init__(self, options: CellConfig, rows: int, rngs: nnx.Rngs):
        n, h = options.states, options.hidden
        std = (n + h) ** -0.5
        total = options.dynamic.gates * n
        self.dynamic = options.dynamic
        self.inputs = Linear(h, total, use_bias=True, std=std, rngs=rngs)
        self.recurrent = Linear(n, total, std=std, rngs=rngs)
        self.of_state = Linear(n, h, use_bias=True, std=std, rngs=rngs)
        self.of_input = Linear(h, h, std=std, rngs=rngs)
        self.state = StreamCarry(jnp.zeros((rows, n)))

    def __call__(
        self,
        x: Float[Array, "... H"],
        at: Int[Array, "B T"] | None,
        cut: Bool[Array, " T"],
        ctx: Context,
        extra: Float[Array, "B T H"] | None = None,
    ) -> Float[Array, "B T H"]:
        """Read inputs and return outputs; replace the state.

        Args:
            x: inputs, (B, T, H), or a table of them, (256, H).
            at: rows of the table; None: x has one input per byte.
            cut: steps that see the state before them as a constant.
            ctx: the context.
            extra: terms that are added to the readout's pre-activations.
        """
        if at is None:
            inputs, skip = self.inputs(x, ctx.at("inputs")), self.of_input(x, ctx.at("of_input"))
        else:
            inputs = looked_up(self.inputs, x, at, ctx.at("inputs"))
            skip = looked_up(self.of_input, x, at, ctx.at("of_input"))
        kernel = weights(self.recurrent, ctx.at("recurrent"))
        skip = skip if extra is None else skip + extra
        inputs = rearrange(inputs, "B T GN -> T B GN")
        states: Array = recur(self.dynamic, inputs, kernel, self.state[...], cut)
        self.state[...] = jax.lax.stop_gradient(states[-1])
        states = rearrange(states, "T B N -> B T N")
        return jax.nn.silu(self.of_state(states, ctx.at("of_state")) + skip)


def weights(layer: Linear, ctx: Context) -> Float[Array, "I O"]:
    """Return a map's kernel, gathered from all devices once per step."""
    return gathered(layer.kernel[...], *ctx.parameter("kernel"))


def looked_up(
    layer: Linear, table: Float[Array, "256 I"], at: Int[Array, "B T"], ctx: Context
) -> Float[Array, "B T O"]:
    """Return a map's outputs for rows of a table; the map is computed once per row of the table."""
    out: Array = product(table, weights(layer, ctx))  # (256, O)
    if layer.bias is not None:
        out = out + align(layer.bias[...], out)
    rows: Array = rows_of(out, at)
    return rows


@jax.custom_vjp
def rows_of(table: Float[Array, "256 O"], at: Int[Array, "B T"]) -> Float[Array, "B T O"]:
    """Return rows of a table.

    The gradient is a matmul with one-hot rows. That of an index is a scatter, for which a mesh
    would gather the gradients of all bytes on each device; so it would for the matmul if its rows
    were not constrained.
    """
    return table.at[at].get(mode="promise_in_bounds")


def _rows_of_backward(at: Array, grad: Array) -> tuple[Array, None]:
    chosen = jax.nn.one_hot(at, BYTES, dtype=grad.dtype)  # (B, T, 256)
    chosen, grad = (split_rows(rearrange(x, "B T D -> (B T) D")) for x in (chosen, grad))
    return chosen.T @ grad, None


rows_of.defvjp(lambda table, at: (rows_of(table, at), at), _rows_of_backward)


class CellRNN(ByteNetwork):
    """An embedding, recurrent layers, and scores of the next byte.

    Attributes:
        layers: the layers, each with its `state`.
    """

    def __init__(self, options: CellConfig, rows: int, rngs: nnx.Rngs):
        """Draw the parameters.

        Args:
            options: sizes.
            rows: number of streams.
            rngs: source of the initial values.
        """
        self.embed = Embedding(BYTES, options.hidden, rngs=rngs)
        self.layers = nnx.List([CellLayer(options, rows, rngs) for _ in range(options.layers)])
        self.head = Linear(options.hidden, BYTES, use_bias=True, rngs=rngs)
        sizes = (options.ngram_rows, options.ngram_features, options.hidden)
        self.ngrams = NGrams(options.ngrams, *sizes, rows, rngs) if options.ngrams else None

    def __call__(self, x: Int[Array, "B T"], ctx: Context) -> Output:
        """Read bytes."""
        cut = cuts(x.shape[1], ctx.hparams["bptt"])
        table = gathered(self.embed.table[...], *ctx.at("embed").parameter("table"))
        extra = None if self.ngrams is None else self.ngrams(x, ctx.at("ngrams"))
        features = self.layers[0](table, x, cut, ctx.at("layers.0"), extra)
        for i, layer in enumerate(self.layers[1:], 1):
            features = layer(features, None, cut, ctx.at(f"layers.{i}"))
        return Output(self.head(features, ctx.at("head")))

    def weights_per_byte(self) -> int:
        """Return the number of weights used per byte; the first layer's maps are looked up."""
        first = self.layers[0]
        looked_up = first.inputs.kernel.size + first.of_input.kernel.size
        return super().weights_per_byte() - looked_up
