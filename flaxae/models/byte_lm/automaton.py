"""AutomatonNN: a recurrent network whose state is a mixture of R learned rows.

Letters in shapes: B streams, T bytes that are read at once, W width of the byte's embedding, R rows
of a table, D their width.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from flaxae.config.ranges import Count, Positive, Whole
from flaxae.models.byte_lm.network import BYTES, ByteNetwork, Output
from flaxae.models.byte_lm.recurrence import cuts
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.nn.linear import Embedding, Linear
from flaxae.task import Context, StreamCarry


class Automaton(nnx.Module):
    """A layer whose new state is p M, with p = softmax(net([x; state])) over the rows of M."""

    def __init__(self, streams: int, inputs: int, config: "AutomatonConfig", rngs: nnx.Rngs):
        rows, width, hidden = config.rows, config.width, config.hidden
        units, std = hidden or rows, (inputs + width) ** -0.5
        self.read = Linear(inputs, units, use_bias=True, std=std, rngs=rngs)
        self.recur = Linear(width, units, std=std, rngs=rngs)
        self.choose = Linear(hidden, rows, use_bias=True, rngs=rngs) if hidden else None
        self.table = nnx.Param(jax.random.normal(rngs.params(), (rows, width), jnp.float32))
        self.state = StreamCarry(jnp.zeros((streams, width), jnp.float32))

    def __call__(
        self, x: Float[Array, "B T I"], cut: Bool[Array, " T"], ctx: Context
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B T R"]]:
        """Read the inputs of T bytes.

        Args:
            x: the inputs.
            cut: True where no gradient passes to the state before.
            ctx: the context.

        Returns:
            The states, and the probabilities of the rows.
        """
        scale, hard = 1 / ctx.hparams["temperature"], ctx.hparams["straight_through"] > 0
        table = self.table[...]

        # `product` records no taps: values inside of a scan cannot leave it.
        def step(before: Array, one: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            read, cut = one
            before = jnp.where(cut, jax.lax.stop_gradient(before), before)  # (B, D)
            scores = read + self.recur.product(before, ctx.at("recur"))
            if self.choose is not None:
                scores = self.choose.product(jnp.tanh(scores), ctx.at("choose"))
            p = jax.nn.softmax(scale * scores)  # (B, R)
            one_row = jax.nn.one_hot(p.argmax(-1), p.shape[-1], dtype=p.dtype)
            used = jnp.where(hard, p + jax.lax.stop_gradient(one_row - p), p)
            state = used @ table
            return state, (state, p)

        # Time is the first axis only in the recurrence: a mesh splits the first axis of maps.
        inputs = rearrange(self.read(x, ctx.at("read")), "B T units -> T B units")
        last, (states, p) = jax.lax.scan(step, self.state[...], (inputs, cut))
        self.state[...] = jax.lax.stop_gradient(last)
        return rearrange(states, "T B D -> B T D"), rearrange(p, "T B R -> B T R")


class AutomatonNN(ByteNetwork):
    """One or two Automaton layers, each of which reads the byte and the states of those below.

    With one row per table the network has no memory: the scores depend on the last byte only.
    """

    def __init__(self, streams: int, config: "AutomatonConfig", rngs: nnx.Rngs):
        self.embed = Embedding(BYTES, config.inputs, rngs=rngs)
        sizes = [config.inputs + i * config.width for i in range(config.layers + 1)]
        self.layers = nnx.List(Automaton(streams, size, config, rngs) for size in sizes[:-1])
        self.head = Linear(sizes[-1], BYTES, use_bias=True, rngs=rngs)

    def __call__(self, x: Int[Array, "B T"], ctx: Context) -> Output:
        """Read bytes; see `ByteNetwork`."""
        cut = cuts(x.shape[1], ctx.hparams["bptt"])
        h = self.embed(x, ctx.at("embed"))  # (B, T, W)
        metrics = {}
        for i, layer in enumerate(self.layers):
            states, p = layer(h, cut, ctx.at(f"layers.{i}"))
            h = jnp.concatenate([h, states], -1)  # (B, T, W + D)
            metrics |= {f"layer_{i}/{name}": m for name, m in row_use(p).items()}
        return Output(self.head(h, ctx.at("head")), metrics=metrics)

    def weights_per_byte(self) -> int:
        """Return the number of trained weights that a byte is multiplied with in matmuls."""
        tables = sum(math.prod(layer.table.shape) for layer in self.layers)
        return super().weights_per_byte() + tables


def row_use(p: Float[Array, "B T R"]) -> dict[str, Float[Array, "B T"]]:
    """Return how sharply rows are chosen, and how many are in use.

    Args:
        p: probabilities of the rows at each position.

    Returns:
        "max_p": the largest probability; "rows_used": the perplexity of the probabilities' mean
        over all these positions, from 1 to R, the same number at each position.
    """
    p = jax.lax.stop_gradient(p)
    largest = p.max(-1)  # (B, T)
    mean = p.mean((0, 1))  # (R,)
    entropy = -(mean * jnp.log(jnp.maximum(mean, 1e-30))).sum()
    return {"max_p": largest, "rows_used": jnp.broadcast_to(jnp.exp(entropy), largest.shape)}


@dataclasses.dataclass
class AutomatonConfig(ByteLMConfig):
    """Sizes and training of an AutomatonNN."""

    traced = ("bptt", "temperature", "straight_through")

    rows: Count = 16  # R, rows of each table
    width: Count = 32  # D, numbers per row
    inputs: Count = 32  # W, numbers per byte
    hidden: Whole = 0  # units of a tanh layer before the softmax; 0: none
    layers: Count = 1
    bptt: Count = 8  # every bptt-th byte of an update, no gradient passes to the state before
    temperature: Positive = 1.0  # divisor of the scores of rows
    straight_through: bool = False  # the state is the likeliest row; gradients are of the mixture

    def network(self, rows: int, rngs: nnx.Rngs) -> AutomatonNN:
        """Build the network."""
        return AutomatonNN(rows, self, rngs)
