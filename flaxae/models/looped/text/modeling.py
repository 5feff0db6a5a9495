"""The looped blocks as a language model of bytes.

Letters in addition to those of `core`: L bytes of the longest row.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config.ranges import Count
from flaxae.errors import require
from flaxae.losses import cross_entropy
from flaxae.machine.sharding import split_rows
from flaxae.models.looped.core import LoopedBlocks, LoopReadouts, LoopSizes
from flaxae.models.looped.text.data import BYTES, NEWLINE
from flaxae.nn.linear import Embedding, Linear
from flaxae.task import Context


@dataclasses.dataclass
class TextModelConfig(LoopSizes):
    """Sizes of the language model."""

    width: Count = 128
    num_heads: Count = 4


class LoopedText(LoopedBlocks):
    """A language model: embedded bytes are the prompt P, the next byte is read from the state."""

    def __init__(self, config: TextModelConfig, length: int, *, rngs: nnx.Rngs):
        """Draw the parameters.

        Args:
            config: sizes.
            length: L.
            rngs: source of the initial values, its stream `params`.
        """
        require(length > 1, f"data.max_length={length} must be at least 2 bytes")
        width = config.width
        # The spread of a regression prompt: a smaller one would be lost in the normalised state.
        self.embedding = Embedding(BYTES, width, std=3**-0.5, rngs=rngs)
        super().__init__(config, length, rngs=rngs)
        self.read_out = Linear(width, BYTES, use_bias=True, std=(3 * width) ** -0.5, rngs=rngs)

    def prompt(self, rows: Int[Array, "B L"], ctx: Context) -> Float[Array, "B L D"]:
        """Embed the byte before each byte of the rows, a newline before the first, as P."""
        before = jnp.pad(rows[:, :-1], ((0, 0), (1, 0)), constant_values=NEWLINE)
        return self.embedding(split_rows(before), ctx.at("embedding"))

    def logits(self, state: Float[Array, "B L D"], ctx: Context) -> Float[Array, "B L V"]:
        """Return the scores of the byte at each position, given the bytes before it."""
        return self.read_out(state, ctx.at("read_out"))

    def last_loops(
        self,
        rows: Int[Array, "B L"],
        weight: Float[Array, "B L"],
        ctx: Context,
        *,
        loops: Int[Array, ""] | int,
        grad_loops: Int[Array, ""] | int,
        window: int,
    ) -> LoopReadouts:
        """Return cross entropy and correct bytes after each of the last loops, summed over bytes.

        Only the logits of one loop are in memory at a time, in the backward pass too.

        Args:
            rows: bytes.
            weight: weight of each byte, 0 for padding.
            ctx: the context.
            loops: b, traced.
            grad_loops: T, traced, at most `window`.
            window: see `LoopedBlocks.truncated_loops`.

        Returns:
            (nats, correct bytes), each (window,), and which loops the loss counts.
        """
        targets, weights = (rearrange(x, "B L -> (B L)") for x in (rows, weight))

        def read(state: Array, ctx: Context) -> tuple[Array, Array]:
            logits = self.logits(state, ctx)
            return cross_entropy(rearrange(logits, "B L V -> (B L) V"), targets, weights)

        return self.truncated_loops(
            self.prompt(rows, ctx), ctx, read, loops=loops, grad_loops=grad_loops, window=window
        )

    def nats_by_loop(
        self, rows: Int[Array, "B L"], weight: Float[Array, "B L"], ctx: Context, num_loops: int
    ) -> Float[Array, "loops B"]:
        """Return -log p of each row after each loop; for evaluation."""
        prompt = self.prompt(rows, ctx)
        untapped = dataclasses.replace(ctx, taps=ctx.taps.fresh())

        def body(y: Array, _: None) -> tuple[Array, Array]:
            y = self.loop(y, prompt, untapped)
            return y, row_nats(self.logits(y, untapped), rows, weight)

        return jax.lax.scan(body, self.initial_state(prompt), None, length=num_loops)[1]

    def sample(
        self, ctx: Context, count: int, length: int, loops: Int[Array, ""] | int, temperature: float
    ) -> Int[Array, "B L"]:
        """Draw texts byte after byte; every byte runs all loops over its row, without a cache.

        Args:
            ctx: the context, whose key is drawn from.
            count: B.
            length: L.
            loops: b.
            temperature: temperature of the softmax; 0: the most likely byte is taken.

        Returns:
            Bytes; those after a row's first newline have no meaning.
        """
        untapped = dataclasses.replace(ctx, taps=ctx.taps.fresh())

        def next_byte(position: Array, rows: Array) -> Array:
            prompt = self.prompt(rows, untapped)
            start = self.initial_state(prompt)
            state = jax.lax.fori_loop(0, loops, lambda _, y: self.loop(y, prompt, untapped), start)
            last = jax.lax.dynamic_index_in_dim(state, position, axis=1)
            scores: Any = self.logits(last, untapped)[:, 0]
            if temperature > 0:
                noise = jax.random.gumbel(jax.random.fold_in(ctx.key, position), scores.shape)
                scores = scores / temperature + noise
            return rows.at[:, position].set(jnp.argmax(scores, axis=-1).astype(jnp.int32))

        return jax.lax.fori_loop(0, length, next_byte, jnp.zeros((count, length), jnp.int32))


def row_nats(
    logits: Float[Array, "B L V"], rows: Int[Array, "B L"], weight: Float[Array, "B L"]
) -> Float[Array, " B"]:
    """Return -log p of each row, the sum over its bytes, in nats."""
    logs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(logs, rows[..., None], axis=-1)[..., 0]
    return -jnp.sum(chosen * weight, axis=1)
