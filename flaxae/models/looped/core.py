"""The part that all looped models share: one stack of blocks, applied repeatedly to its own output.

Y_0 = 0, Y_{t+1} = LN_f(Blocks(inject(Y_t, P) + wpe)), where P is the embedded prompt and wpe are
learned positions. One loop of 12 blocks is the standard transformer. Letters in addition to those
of `flaxae.nn`: b loops, of which the last T carry gradient.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from flaxae.config import Section
from flaxae.config.ranges import Count
from flaxae.errors import require
from flaxae.models.looped.blocks import STD, Block
from flaxae.nn.linear import Linear, align
from flaxae.nn.norm import LayerNorm
from flaxae.nn.stack import KEPT, check_kept, scan_blocks, stacked
from flaxae.task import Context

LARGEST_DECAY = 0.999  # keeps the norm below 1 even if exp(-softplus) rounds to 1
FIRST_DECAY = 0.9
# (path regex, how the parameter is split): heads and feed-forward units over the axis "model".
SHARDING_RULES = (
    (r"blocks/(qkv|up)/kernel$", P(None, None, "model")),
    (r"blocks/(out|down)/kernel$", P(None, "model", None)),
)


class Injection(enum.Enum):
    """The way a loop receives the prompt P in addition to its state Y."""

    ADD = "add"  # Y + P
    MULTIPLY = "multiply"  # Y * P, from Y_0 = 1
    SCALED = "scaled"  # Y + s P, s learned from 1
    LINEAR = "linear"  # a linear map of [Y; P]
    STABLE = "stable"  # A Y + B P: A diagonal, its spectral norm below 1; B a learned matrix
    NONE = "none"  # only at the start: Y_0 = P


@dataclasses.dataclass
class LoopSizes(Section):
    """Sizes of the looped blocks."""

    section: ClassVar[str] = "task.model"

    width: Count = 256
    num_heads: Count = 8
    num_layers: Count = 1
    injection: Injection = Injection.ADD
    remat: bool = True  # recompute each loop (of a single pass, each layer) in the backward pass
    remat_keep: str = "nothing"  # not recomputed: "products", of matmuls with weights
    scan_unroll: Count = 1  # layers per iteration of the scan

    def validate(self) -> None:
        """Raise ConfigError for sizes that do not fit each other."""
        check_kept(self.remat_keep, "task.model.remat_keep", self.remat)
        require(
            self.width % self.num_heads == 0,
            f"task.model.width={self.width} is not divisible by num_heads={self.num_heads}",
        )


class LoopReadouts(NamedTuple):
    """Readouts after each of the last loops.

    Attributes:
        values: the reader's results, stacked over loops.
        weight: 1 for a loop that the loss counts, 0 for a loop before the last min(b, T).
    """

    values: Any
    weight: Float[Array, " T"]


class LoopedBlocks(nnx.Module):
    """Positions, blocks and the final norm, all inside the loop, and the injection."""

    def __init__(self, sizes: LoopSizes, length: int, *, rngs: nnx.Rngs):
        """Draw the parameters.

        Args:
            sizes: sizes of the blocks.
            length: tokens of the longest prompt.
            rngs: source of the initial values, its stream `params`.
        """
        width, layers = sizes.width, sizes.num_layers
        self.injection, self.remat, self.keep = sizes.injection, sizes.remat, sizes.remat_keep
        self.num_layers, self.scan_unroll = layers, sizes.scan_unroll
        self.positions = nnx.Param(STD * jax.random.normal(rngs.params(), (length, width)))
        residual = STD / (2 * layers) ** 0.5
        self.blocks = stacked(
            lambda r: Block(width, sizes.num_heads, residual, rngs=r), layers, rngs
        )
        self.norm = LayerNorm(width)
        # All of these start as Y + P, or close to it, so that they can be compared.
        eye = jnp.eye(width, dtype=jnp.float32)
        match sizes.injection:
            case Injection.SCALED:
                self.prompt_scale = nnx.Param(jnp.ones((1, 1, 1), jnp.float32))
            case Injection.LINEAR:
                self.join = Linear(2 * width, width, rngs=rngs)
                self.join.kernel[...] = jnp.concatenate([eye, eye])
            case Injection.STABLE:
                # exp(-softplus(x)) = 1 / (1 + exp(x)).
                start = jnp.log(jnp.float32(LARGEST_DECAY / FIRST_DECAY - 1))
                self.decay_logit = nnx.Param(jnp.full(width, start))
                self.from_prompt = Linear(width, width, rngs=rngs)
                self.from_prompt.kernel[...] = eye

    def decay(self) -> Float[Array, " D"]:
        """Return the diagonal of A in a stable injection, in [0, LARGEST_DECAY]."""
        return LARGEST_DECAY * jnp.exp(-jax.nn.softplus(self.decay_logit[...]))

    def initial_state(self, prompt: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Return Y_0."""
        match self.injection:
            case Injection.MULTIPLY:
                return jnp.ones_like(prompt)
            case Injection.NONE:
                return prompt
        return jnp.zeros_like(prompt)

    def loop(
        self,
        state: Float[Array, "B S D"],
        prompt: Float[Array, "B S D"],
        ctx: Context,
        remat_layers: bool = False,
    ) -> Float[Array, "B S D"]:
        """Run one loop, from Y_t to Y_{t+1}."""
        x = self.inject(state, prompt, ctx) + self.positions[...][None, : state.shape[1]]

        def call(block: Block, x: Any, ctx: Context, _: Any) -> Any:
            return ctx.tap("state", block(x, ctx)), None

        x, _ = scan_blocks(
            call,
            self.blocks,
            x,
            ctx.at("blocks"),
            remat=remat_layers,
            keep=self.keep,
            unroll=self.scan_unroll,
        )
        return self.norm(x, ctx.at("norm"))

    def inject(
        self, state: Float[Array, "B S D"], prompt: Float[Array, "B S D"], ctx: Context
    ) -> Float[Array, "B S D"]:
        """Combine the state and the prompt to the input of the blocks."""
        match self.injection:
            case Injection.ADD:
                return state + prompt
            case Injection.MULTIPLY:
                return state * prompt
            case Injection.SCALED:
                return state + self.prompt_scale[...] * prompt
            case Injection.LINEAR:
                return self.join(jnp.concatenate([state, prompt], axis=-1), ctx.at("join"))
            case Injection.STABLE:
                kept = align(self.decay(), state) * state
                return kept + self.from_prompt(prompt, ctx.at("from_prompt"))
            case Injection.NONE:
                return state

    def truncated_loops(
        self,
        prompt: Float[Array, "B S D"],
        ctx: Context,
        read: Callable[[Any, Context], Any],
        *,
        loops: Int[Array, ""] | int,
        grad_loops: Int[Array, ""] | int,
        window: int,
    ) -> LoopReadouts:
        """Run b loops with truncated backpropagation, in one program for every b and T.

        The gradient is cut before the last min(b, T) loops.

        Args:
            prompt: P.
            ctx: the context.
            read: (state after a loop, context) -> a pytree.
            loops: b, traced.
            grad_loops: T, traced, at most `window`.
            window: number of loops that are compiled to carry gradient. If b < window, its first
                loops leave the state unchanged; they cost time.

        Returns:
            Readouts of the last `window` loops, and which of them the loss counts.
        """
        free = jnp.maximum(jnp.asarray(loops) - window, 0)
        state = self._loops_without_gradient(prompt, ctx, free)
        if self.injection is Injection.NONE:  # Y_0 is P, so its gradient is that of P
            state = jnp.where(free > 0, state, prompt)
        idle = jnp.maximum(window - jnp.asarray(loops), 0)
        first = window - jnp.minimum(jnp.asarray(loops), jnp.asarray(grad_loops))
        by_layers = self.remat and window == 1 and self.num_layers > 1

        def body(y: Array, index: Array) -> tuple[Array, Any]:
            cut = (index == first) & (index > idle)
            y = jnp.where(cut, jax.lax.stop_gradient(y), y)
            fresh = dataclasses.replace(ctx, taps=ctx.taps.fresh())
            after = self.loop(y, prompt, fresh, remat_layers=by_layers)
            y = jnp.where(index >= idle, after, y)
            return y, read(y, fresh)

        if self.remat and window > 1:
            body = jax.checkpoint(body, prevent_cse=False, policy=KEPT[self.keep])
        indices = jnp.arange(window)
        _, out = jax.lax.scan(body, state, indices)
        return LoopReadouts(out, (indices >= first).astype(jnp.float32))

    def _loops_without_gradient(
        self, prompt: Float[Array, "B S D"], ctx: Context, count: Int[Array, ""]
    ) -> Float[Array, "B S D"]:
        """Return the state after `count` loops, a traced number.

        Nothing that carries gradient enters the loop: only then may its number be traced.
        """
        graphdef, params = nnx.split(self)
        fixed: Any = nnx.merge(graphdef, jax.tree.map(jax.lax.stop_gradient, params))
        untapped = dataclasses.replace(ctx, taps=ctx.taps.fresh())  # no tap leaves a while loop
        prompt = jax.lax.stop_gradient(prompt)
        return jax.lax.fori_loop(
            0, count, lambda _, y: fixed.loop(y, prompt, untapped), fixed.initial_state(prompt)
        )
