"""A looped transformer for in-context regression (arXiv 2311.12424); one loop is the standard one.

Letters in addition to those of `core`: n points · d dimensions per point · S = 2n tokens
x_1, y_1, ..., x_n, y_n.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from flaxae.config.ranges import Count
from flaxae.errors import require
from flaxae.models.looped.core import Injection as Injection
from flaxae.models.looped.core import LoopedBlocks, LoopSizes
from flaxae.nn.linear import Linear
from flaxae.task import Context


@dataclasses.dataclass
class ModelConfig(LoopSizes):
    """Sizes of the transformer."""

    dims: Count = 20
    points: Count = 41  # points of the longest prompt, including the query


class LastLoops(NamedTuple):
    """Predictions of the loops that may carry gradient.

    Attributes:
        predictions: y of all points after each of the last loops.
        weight: 1 for a loop that the loss counts, 0 for a loop before the last min(b, T).
    """

    predictions: Float[Array, "T B n"]
    weight: Float[Array, " T"]


class Trace(NamedTuple):
    """Results of every loop.

    Attributes:
        predictions: y of all points.
        query_states: the state at the last x.
    """

    predictions: Float[Array, "loops B n"]
    query_states: Float[Array, "loops B D"]


class LoopedTransformer(LoopedBlocks):
    """A linear read-in, one stack of blocks for all loops, and a linear readout at the x tokens."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Draw the parameters.

        Args:
            config: sizes.
            rngs: source of the initial values, its stream `params`.
        """
        width = config.width
        # The spread of torch's default for a Linear: with .02, prompts would be small next to the
        # positions.
        self.read_in = Linear(
            config.dims, width, use_bias=True, std=(3 * config.dims) ** -0.5, rngs=rngs
        )
        super().__init__(config, 2 * config.points, rngs=rngs)
        self.read_out = Linear(width, 1, use_bias=True, std=(3 * width) ** -0.5, rngs=rngs)

    def prompt(
        self, xs: Float[Array, "B n d"], ys: Float[Array, "B n"], ctx: Context
    ) -> Float[Array, "B S D"]:
        """Embed the prompt as P: each y, padded with zeros to d dimensions, follows its x."""
        ys = jnp.pad(ys[..., None], ((0, 0), (0, 0), (0, xs.shape[2] - 1)))
        tokens = rearrange(jnp.stack([xs, ys], axis=2), "B n two d -> B (n two) d")
        return self.read_in(tokens, ctx.at("read_in"))

    def readout(self, state: Float[Array, "B S D"], ctx: Context) -> Float[Array, "B n"]:
        """Return the prediction of each y, read at its x."""
        return self.read_out(state[:, ::2], ctx.at("read_out"))[..., 0]

    def last_loops(
        self,
        prompt: Float[Array, "B S D"],
        ctx: Context,
        *,
        loops: Int[Array, ""] | int,
        grad_loops: Int[Array, ""] | int,
        window: int,
    ) -> LastLoops:
        """Return the predictions of the last loops; see `LoopedBlocks.truncated_loops`.

        Args:
            prompt: P.
            ctx: the context.
            loops: b, traced.
            grad_loops: T, traced, at most `window`.
            window: number of loops that are compiled to carry gradient.

        Returns:
            Predictions of the last `window` loops, and which of them the loss counts.
        """
        out = self.truncated_loops(
            prompt, ctx, self.readout, loops=loops, grad_loops=grad_loops, window=window
        )
        return LastLoops(*out)

    def every_loop(
        self,
        prompt: Float[Array, "B S D"],
        ctx: Context,
        num_loops: int,
        keep: Bool[Array, " S"] | None = None,
    ) -> Trace:
        """Run loops and read out after each; for evaluation.

        Args:
            prompt: P.
            ctx: the context.
            num_loops: number of loops.
            keep: True for tokens whose states are passed to the next loop; those of other tokens
                are reset to Y_0 (P is complete in every loop). None: all are passed.

        Returns:
            Predictions and the state at the last x of every loop.
        """
        start = self.initial_state(prompt)
        untapped = dataclasses.replace(ctx, taps=ctx.taps.fresh())

        def body(y: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            y = self.loop(y, prompt, untapped)
            out = self.readout(y, untapped), y[:, -2]
            return (y if keep is None else jnp.where(keep[None, :, None], y, start)), out

        _, out = jax.lax.scan(body, start, None, length=num_loops)
        return Trace(*out)

    def halting(
        self, prompt: Float[Array, "B S D"], ctx: Context, tolerance: Any, max_loops: int
    ) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
        """Run loops until each row's state at the query has converged.

        A row stops when the norm of the state's change is below `tolerance` times its norm.

        Args:
            prompt: P.
            ctx: the context.
            tolerance: relative change below which a row stops.
            max_loops: maximum number of loops.

        Returns:
            The prediction at the last x, and the number of loops of each row.
        """
        untapped = dataclasses.replace(ctx, taps=ctx.taps.fresh())
        rows = prompt.shape[0]

        def unfinished(carry: Any) -> Array:
            done, _, _, _, active = carry
            return (done < max_loops) & jnp.any(active)

        def body(carry: Any) -> Any:
            done, y, answer, used, active = carry
            after = self.loop(y, prompt, untapped)
            answer = jnp.where(active, self.readout(after, untapped)[:, -1], answer)
            moved = jnp.linalg.norm(after[:, -2] - y[:, -2], axis=-1)
            small = moved < tolerance * jnp.linalg.norm(after[:, -2], axis=-1)
            return done + 1, after, answer, used + active.astype(jnp.int32), active & ~small

        zero, none = jnp.zeros(rows, jnp.float32), jnp.zeros(rows, jnp.int32)
        carry = (jnp.int32(0), self.initial_state(prompt), zero, none, jnp.ones(rows, bool))
        _, _, answer, used, _ = jax.lax.while_loop(unfinished, body, carry)
        return answer, used


def keep_tokens(points: int, count: int, side: str, query: bool = False) -> Bool[np.ndarray, " S"]:
    """Return a mask of the tokens that pass their states on: `count` of the 2n - 1 up to the query.

    The last token, y_n, comes after the last readout, so its state never matters; it is kept.

    Args:
        points: n.
        count: number of kept tokens; 2n - 1 is all of them.
        side: "first" counts from the start of the prompt, "last" back from the query.
        query: whether the query is kept in any case.

    Returns:
        True for kept tokens, (2n,).

    Raises:
        ConfigError: if the side or the count is invalid.
    """
    visible = 2 * points - 1
    require(side in ("first", "last"), f"side={side!r} must be first or last")
    require(0 <= count <= visible, f"count={count} must be from 0 to {visible}")
    keep = np.zeros(2 * points, bool)
    keep[:visible] = (
        np.arange(visible) < count if side == "first" else (np.arange(visible) >= visible - count)
    )
    keep[-1] = True
    keep[-2] |= query
    return keep
