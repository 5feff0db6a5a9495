"""A looped transformer for in-context regression (arXiv 2311.12424), and the standard one.

Letters beyond those of `core`: n points · d their dimensions · S = 2n tokens x_1, y_1, ..., x_n,
y_n.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from flaxae.errors import require
from flaxae.models.looped.core import Injection as Injection
from flaxae.models.looped.core import LoopedBlocks, LoopSizes
from flaxae.nn.linear import Linear
from flaxae.task import Context


@dataclasses.dataclass
class ModelConfig(LoopSizes):
    """Sizes of the transformer."""

    dims: int = 20
    points: int = 41  # of the longest prompt, the query among them

    def validate(self) -> None:
        super().validate()
        for name in ("dims", "points"):
            value = getattr(self, name)
            require(value > 0, f"task.model.{name}={value} must be positive")


class LastLoops(NamedTuple):
    """Predictions of the loops that may carry gradient.

    predictions: of each of the last loops.
    weight: 1 for a loop that the loss takes, 0 for one before the last min(b, T).
    """

    predictions: Float[Array, "T B n"]
    weight: Float[Array, " T"]


class Trace(NamedTuple):
    """What every loop made."""

    predictions: Float[Array, "loops B n"]
    query_states: Float[Array, "loops B D"]  # the state at the last x


class LoopedTransformer(LoopedBlocks):
    """Linear read-in, one set of blocks for all loops, linear readout at the x tokens."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Draws the parameters.

        Args:
            config: sizes.
            rngs: `rngs.params` is drawn from.
        """
        width = config.width
        # As wide as torch's default for a Linear: at .02 prompts would drown in the positions.
        self.read_in = Linear(
            config.dims, width, use_bias=True, std=(3 * config.dims) ** -0.5, rngs=rngs
        )
        super().__init__(config, 2 * config.points, rngs=rngs)
        self.read_out = Linear(width, 1, use_bias=True, std=(3 * width) ** -0.5, rngs=rngs)

    def prompt(
        self, xs: Float[Array, "B n d"], ys: Float[Array, "B n"], ctx: Context
    ) -> Float[Array, "B S D"]:
        """The embedded prompt P: each y, padded with zeros to d, follows its x."""
        rows, points, dims = xs.shape
        ys = jnp.pad(ys[..., None], ((0, 0), (0, 0), (0, dims - 1)))
        tokens = jnp.stack([xs, ys], axis=2).reshape(rows, 2 * points, dims)  # (B, n, 2, d)
        return self.read_in(tokens, ctx.at("read_in"))

    def readout(self, state: Float[Array, "B S D"], ctx: Context) -> Float[Array, "B n"]:
        """Predictions of each y at its x."""
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
        """Predictions of the last loops, whose gradient is cut before the last min(b, T).

        Args:
            prompt: P.
            ctx: the context.
            loops: b, traced.
            grad_loops: T, traced, at most `window`.
            window: see `LoopedBlocks.tail`.

        Returns:
            Predictions of the last `window` loops, and which of them the loss takes.
        """
        out = self.tail(
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
        """Runs loops and reads out after each; for evaluation.

        Args:
            prompt: P.
            ctx: the context.
            num_loops: how many.
            keep: which tokens' states are carried on to the next loop; the others' are Y_0 again
                (P is whole at every loop). None: all.

        Returns:
            Predictions and the state at the last x, of every loop.
        """
        start = self.initial_state(prompt)
        silent = dataclasses.replace(ctx, taps=ctx.taps.fresh())

        def body(y: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            y = self.loop(y, prompt, silent)
            out = self.readout(y, silent), y[:, -2]
            return (y if keep is None else jnp.where(keep[None, :, None], y, start)), out

        _, out = jax.lax.scan(body, start, None, length=num_loops)
        return Trace(*out)

    def halting(
        self, prompt: Float[Array, "B S D"], ctx: Context, tolerance: Any, max_loops: int
    ) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
        """Each row stops where its state at the query moves less than `tolerance` times itself.

        Returns:
            The prediction at the last x, and the loops that each row ran.
        """
        silent = dataclasses.replace(ctx, taps=ctx.taps.fresh())
        rows = prompt.shape[0]

        def going(carry: Any) -> Array:
            turn, _, _, _, active = carry
            return (turn < max_loops) & jnp.any(active)

        def body(carry: Any) -> Any:
            turn, y, answer, used, active = carry
            after = self.loop(y, prompt, silent)
            answer = jnp.where(active, self.readout(after, silent)[:, -1], answer)
            moved = jnp.linalg.norm(after[:, -2] - y[:, -2], axis=-1)
            small = moved < tolerance * jnp.linalg.norm(after[:, -2], axis=-1)
            return turn + 1, after, answer, used + active.astype(jnp.int32), active & ~small

        zero, none = jnp.zeros(rows, jnp.float32), jnp.zeros(rows, jnp.int32)
        carry = (jnp.int32(0), self.initial_state(prompt), zero, none, jnp.ones(rows, bool))
        _, _, answer, used, _ = jax.lax.while_loop(going, body, carry)
        return answer, used


def keep_tokens(points: int, count: int, side: str, query: bool = False) -> Bool[np.ndarray, " S"]:
    """Which tokens' states are carried: `count` of the 2n - 1 up to the query.

    The last token, y_n, stands after all that is read out, so that it never matters; it is kept.

    Args:
        points: n.
        count: how many tokens are kept; 2n - 1 is all of them.
        side: "last" counts back from the query, "first" from the prompt's beginning.
        query: keep the query too, whatever the count.
    """
    visible = 2 * points - 1
    require(side in ("first", "last"), f"side={side!r} is neither first nor last")
    require(0 <= count <= visible, f"count={count} is not in 0..{visible}")
    keep = np.zeros(2 * points, bool)
    keep[:visible] = (
        np.arange(visible) < count if side == "first" else (np.arange(visible) >= visible - count)
    )
    keep[-1] = True
    keep[-2] |= query
    return keep
