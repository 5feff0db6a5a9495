"""A looped transformer for in-context regression (arXiv 2311.12424), and the standard one.

Y_0 = 0, Y_{t+1} = LN_f(Blocks(inject(Y_t, P) + wpe)): P is the embedded prompt, and the same blocks
run at every loop. One loop of 12 blocks is the standard transformer. Letters beyond those of
`flaxae.nn`: n points · d their dimensions · S = 2n tokens x_1, y_1, ..., x_n, y_n · b loops, of
which the last T carry gradient.
"""

import dataclasses
import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from flaxae.config import Section, require
from flaxae.models.looped.blocks import STD, Block
from flaxae.nn.linear import Linear
from flaxae.nn.norm import LayerNorm
from flaxae.nn.stack import scan_blocks, stacked
from flaxae.task import Context


class Injection(enum.Enum):
    """How a loop gets the prompt P again, beside its state Y."""

    ADD = "add"  # Y + P
    MULTIPLY = "multiply"  # Y * P, from Y_0 = 1
    SCALED = "scaled"  # Y + s P, s learned from 1
    LINEAR = "linear"  # a linear map of [Y; P]
    NONE = "none"  # not at all: Y_0 = P


@dataclasses.dataclass
class ModelConfig(Section):
    """Sizes of the transformer."""

    dims: int = 20
    points: int = 41  # of the longest prompt, the query among them
    width: int = 256
    num_heads: int = 8
    num_layers: int = 1
    injection: Injection = Injection.ADD
    remat: bool = True  # recompute a loop in the backward pass
    scan_unroll: int = 1  # of the layers

    def validate(self) -> None:
        for name in ("dims", "points", "width", "num_heads", "num_layers", "scan_unroll"):
            value = getattr(self, name)
            require(value > 0, f"task.model.{name}={value} must be positive")
        require(
            self.width % self.num_heads == 0,
            f"task.model.width={self.width} is not divisible by num_heads={self.num_heads}",
        )


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


class LoopedTransformer(nnx.Module):
    """Linear read-in, one set of blocks for all loops, linear readout at the x tokens."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Draws the parameters.

        Args:
            config: sizes.
            rngs: `rngs.params` is drawn from.
        """
        width, layers = config.width, config.num_layers
        self.injection, self.remat = config.injection, config.remat
        self.scan_unroll = config.scan_unroll
        # As wide as torch's default for a Linear: at .02 prompts would drown in the positions.
        self.read_in = Linear(
            config.dims, width, use_bias=True, std=(3 * config.dims) ** -0.5, rngs=rngs
        )
        key = rngs.params()
        self.positions = nnx.Param(STD * jax.random.normal(key, (2 * config.points, width)))
        residual = STD / (2 * layers) ** 0.5
        self.blocks = stacked(
            lambda r: Block(width, config.num_heads, residual, rngs=r), layers, rngs
        )
        self.norm = LayerNorm(width)
        self.read_out = Linear(width, 1, use_bias=True, std=(3 * width) ** -0.5, rngs=rngs)
        match config.injection:
            case Injection.SCALED:
                self.prompt_scale = nnx.Param(jnp.ones((1, 1, 1), jnp.float32))
            case Injection.LINEAR:
                # Begins as Y + P, so that all injections begin alike.
                self.join = Linear(2 * width, width, rngs=rngs)
                eye = jnp.eye(width, dtype=jnp.float32)
                self.join.kernel[...] = jnp.concatenate([eye, eye])

    def prompt(
        self, xs: Float[Array, "B n d"], ys: Float[Array, "B n"], ctx: Context
    ) -> Float[Array, "B S D"]:
        """The embedded prompt P: each y, padded with zeros to d, follows its x."""
        rows, points, dims = xs.shape
        ys = jnp.pad(ys[..., None], ((0, 0), (0, 0), (0, dims - 1)))
        tokens = jnp.stack([xs, ys], axis=2).reshape(rows, 2 * points, dims)  # (B, n, 2, d)
        return self.read_in(tokens, ctx.at("read_in"))

    def initial_state(self, prompt: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Y_0."""
        match self.injection:
            case Injection.MULTIPLY:
                return jnp.ones_like(prompt)
            case Injection.NONE:
                return prompt
        return jnp.zeros_like(prompt)

    def loop(
        self, state: Float[Array, "B S D"], prompt: Float[Array, "B S D"], ctx: Context
    ) -> Float[Array, "B S D"]:
        """One loop: Y_t to Y_{t+1}."""
        x = self._inject(state, prompt, ctx) + self.positions[...][None, : state.shape[1]]

        def call(block: Block, x: Any, ctx: Context, _: Any) -> Any:
            return ctx.tap("state", block(x, ctx)), None

        x, _ = scan_blocks(call, self.blocks, x, ctx.at("blocks"), unroll=self.scan_unroll)
        return self.norm(x, ctx.at("norm"))

    def _inject(self, state: Array, prompt: Array, ctx: Context) -> Array:
        match self.injection:
            case Injection.ADD:
                return state + prompt
            case Injection.MULTIPLY:
                return state * prompt
            case Injection.SCALED:
                return state + self.prompt_scale[...] * prompt
            case Injection.LINEAR:
                return self.join(jnp.concatenate([state, prompt], axis=-1), ctx.at("join"))
            case Injection.NONE:
                return state

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
        """Runs b loops, the gradient cut before the last min(b, T), in one program for every b, T.

        Args:
            prompt: P.
            ctx: the context.
            loops: b, traced.
            grad_loops: T, traced, at most `window`.
            window: loops that are compiled to carry gradient. With b < window its first
                loops do nothing: they cost time, and change nothing.
        Returns:
            Predictions of the last `window` loops, and which of them the loss takes.
        """
        free = jnp.maximum(jnp.asarray(loops) - window, 0)
        graphdef, params = nnx.split(self)
        still: Any = nnx.merge(graphdef, jax.tree.map(jax.lax.stop_gradient, params))
        silent = dataclasses.replace(ctx, taps=ctx.taps.fresh())  # no tap leaves a while loop
        # Nothing that carries gradient enters: only so may the number of turns be traced.
        fixed = jax.lax.stop_gradient(prompt)
        state = jax.lax.fori_loop(
            0, free, lambda _, y: still.loop(y, fixed, silent), still.initial_state(fixed)
        )
        if self.injection is Injection.NONE:  # Y_0 is P: its gradient is P's
            state = jnp.where(free > 0, state, prompt)
        idle = jnp.maximum(window - jnp.asarray(loops), 0)
        first = window - jnp.minimum(jnp.asarray(loops), jnp.asarray(grad_loops))

        def body(y: Array, turn: Array) -> tuple[Array, Array]:
            cut = (turn == first) & (turn > idle)
            y = jnp.where(cut, jax.lax.stop_gradient(y), y)
            after = self.loop(y, prompt, dataclasses.replace(ctx, taps=ctx.taps.fresh()))
            y = jnp.where(turn >= idle, after, y)
            return y, self.readout(y, ctx)

        if self.remat and window > 1:
            body = jax.checkpoint(body, prevent_cse=False)
        turns = jnp.arange(window)
        _, predictions = jax.lax.scan(body, state, turns)
        return LastLoops(predictions, (turns >= first).astype(jnp.float32))

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
