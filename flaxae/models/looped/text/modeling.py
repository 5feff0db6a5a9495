"""The looped blocks as a language model of bytes.

A text is a row of bytes that a newline ends, and a newline stands before its first byte too: so the
vocabulary is the 256 bytes and no more. Letters beyond those of `core`: L bytes of the longest row.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.losses import cross_entropy
from flaxae.machine.sharding import split_rows
from flaxae.models.looped.core import LoopedBlocks, LoopSizes, Tail
from flaxae.models.looped.text.data import BYTES, NEWLINE
from flaxae.nn.linear import Embedding, Linear
from flaxae.task import Context


@dataclasses.dataclass
class TextModelConfig(LoopSizes):
    """Sizes of the language model."""

    width: int = 128
    num_heads: int = 4


class LoopedText(LoopedBlocks):
    """Embedded bytes are the prompt P; the next byte is read from the state."""

    def __init__(self, config: TextModelConfig, length: int, *, rngs: nnx.Rngs):
        """Draws the parameters.

        Args:
            config: sizes.
            length: L.
            rngs: `rngs.params` is drawn from.
        """
        require(length > 1, f"data.max_length={length} must be at least 2 bytes")
        width = config.width
        # As spread as a prompt of regression: smaller, it would drown in the normalised state.
        self.embedding = Embedding(BYTES, width, std=3**-0.5, rngs=rngs)
        super().__init__(config, length, rngs=rngs)
        self.read_out = Linear(width, BYTES, use_bias=True, std=(3 * width) ** -0.5, rngs=rngs)

    def prompt(self, rows: Int[Array, "B L"], ctx: Context) -> Float[Array, "B L D"]:
        """P: the bytes before each byte of the rows, a newline before the first."""
        before = jnp.pad(rows[:, :-1], ((0, 0), (1, 0)), constant_values=NEWLINE)
        return self.embedding(split_rows(before), ctx.at("embedding"))

    def logits(self, state: Float[Array, "B L D"], ctx: Context) -> Float[Array, "B L V"]:
        """Scores of the byte at each place, from the bytes before it."""
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
    ) -> Tail:
        """Cross entropy and hits after each of the last loops, summed over rows and bytes.

        The logits of one loop are there at a time, in the backward pass too.

        Args:
            rows: bytes.
            weight: 0 where a row is padded.
            ctx: the context.
            loops, grad_loops, window: see `LoopedBlocks.tail`.

        Returns:
            (nats, hits), each (T,), and which loops the loss takes.
        """
        targets, weights = rows.reshape(-1), weight.reshape(-1)

        def read(state: Array, ctx: Context) -> tuple[Array, Array]:
            logits = self.logits(state, ctx)
            return cross_entropy(logits.reshape(-1, BYTES), targets, weights)

        return self.tail(
            self.prompt(rows, ctx), ctx, read, loops=loops, grad_loops=grad_loops, window=window
        )

    def nats_by_loop(
        self, rows: Int[Array, "B L"], weight: Float[Array, "B L"], ctx: Context, num_loops: int
    ) -> Float[Array, "loops B"]:
        """-log p of each row after each of so many loops; for evaluation."""
        prompt = self.prompt(rows, ctx)
        silent = dataclasses.replace(ctx, taps=ctx.taps.fresh())

        def body(y: Array, _: None) -> tuple[Array, Array]:
            y = self.loop(y, prompt, silent)
            return y, row_nats(self.logits(y, silent), rows, weight)

        return jax.lax.scan(body, self.initial_state(prompt), None, length=num_loops)[1]

    def sample(
        self, ctx: Context, count: int, length: int, loops: Int[Array, ""] | int, temperature: float
    ) -> Int[Array, "B L"]:
        """Texts, byte after byte; each byte runs all loops over its row, without a cache.

        Args:
            ctx: its key is drawn from.
            count: B.
            length: L.
            loops: b.
            temperature: of the softmax; 0: the likeliest byte.

        Returns:
            Bytes; those after a row's first newline mean nothing.
        """
        silent = dataclasses.replace(ctx, taps=ctx.taps.fresh())

        def one(at: Array, rows: Array) -> Array:
            prompt = self.prompt(rows, silent)
            start = self.initial_state(prompt)
            state = jax.lax.fori_loop(0, loops, lambda _, y: self.loop(y, prompt, silent), start)
            last = jax.lax.dynamic_index_in_dim(state, at, axis=1)
            scores: Any = self.logits(last, silent)[:, 0]
            if temperature > 0:
                noise = jax.random.gumbel(jax.random.fold_in(ctx.key, at), scores.shape)
                scores = scores / temperature + noise
            return rows.at[:, at].set(jnp.argmax(scores, axis=-1).astype(jnp.int32))

        return jax.lax.fori_loop(0, length, one, jnp.zeros((count, length), jnp.int32))


def row_nats(
    logits: Float[Array, "B L V"], rows: Int[Array, "B L"], weight: Float[Array, "B L"]
) -> Float[Array, " B"]:
    """-log p of each row's bytes, summed over its places."""
    logs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(logs, rows[..., None], axis=-1)[..., 0]
    return -jnp.sum(chosen * weight, axis=1)
