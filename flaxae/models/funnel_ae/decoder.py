"""The decoder: the Funnel's blocks in reverse, with an upsampler between two blocks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.lm.funnel.config import FunnelConfig
from flaxae.lm.funnel.layers import Sequence
from flaxae.lm.funnel.modeling import Block, Encoded
from flaxae.models.funnel_ae.skips import Skip, SkipConfig
from flaxae.models.funnel_ae.upsampling import Upsampler, Upsampling
from flaxae.nn.linear import Linear
from flaxae.nn.stack import scan_blocks
from flaxae.task import Context


def backwards(block: Block, x: Sequence, ctx: Context, repeats: int = 1) -> Sequence:
    """Apply the layers of a block from the last to the first, at one length.

    Args:
        block: the block; an encoder's block or a decoder's own.
        x: the states at its entry.
        ctx: the block's context.
        repeats: times that each layer is applied before the next one.
    """
    config = block.config

    def call(layer: Any, states: Any, at: Context, _: Any) -> tuple[Any, None]:
        for _ in range(repeats):
            row = Sequence(states, x.mask, x.segments, x.depth)
            states = layer(row, row, at)
        return states, None

    states = x.states
    if block.rest is not None:
        graph, state = nnx.split(block.rest)
        reverse = nnx.merge(graph, jax.tree.map(lambda v: v[::-1], state))
        states, _ = scan_blocks(
            call, reverse, states, ctx.at("rest"), remat=config.remat, unroll=config.scan_unroll
        )
    states, _ = call(block.first, states, ctx.at("first"), None)
    return Sequence(states, x.mask, x.segments, x.depth)


class Decoder(nnx.Module):
    """The blocks in reverse; the states are upsampled between blocks.

    Its attention sees all places of a row, since the length of a text is not known from its code.
    """

    def __init__(
        self,
        config: FunnelConfig,
        upsampling: Upsampling,
        skip: SkipConfig,
        share: bool,
        *,
        rngs: nnx.Rngs,
    ):
        self.config, self.skip = config, skip
        dtype, width = jnp.dtype(config.dtype), config.d_model
        blocks = [Block(config, n, rngs=rngs) for n in config.block_sizes] if not share else None
        self.blocks: Any = None if blocks is None else nnx.List(blocks)
        levels = len(config.block_sizes) - 1
        self.upsamplers = nnx.List(
            [Upsampler(upsampling, width, dtype, rngs=rngs) for _ in range(levels)]
        )
        residual = None
        if skip.kind is Skip.RESIDUAL:
            residual = nnx.List(
                [Linear(width, width, std=0.0, dtype=dtype, rngs=rngs) for _ in range(levels)]
            )
        self.residual: Any = residual

    def __call__(
        self,
        states: Float[Array, "B P D"],
        ctx: Context,
        *,
        shared: Any,
        encoded: Encoded | None = None,
        inputs: list[Float[Array, "B S D"] | None] | None = None,
    ) -> tuple[Float[Array, "B S D"], list[Float[Array, "B S D"]]]:
        """Decode the states of the innermost block.

        Args:
            states: what the code was mapped to.
            ctx: context of the decoder.
            shared: the encoder's blocks, for a decoder without its own.
            encoded: the encoder's states, for skips in training; None: no skips.
            inputs: states added at the entry of each block, outermost first; None: none.

        Returns:
            The states of all places, and the states after each upsampling, outermost first.
        """
        blocks, config = self.blocks or shared, self.config
        upsampled: list[Array] = []
        for k in reversed(range(len(config.block_sizes))):
            at = ctx.at("blocks").at(str(k))
            extra = None if inputs is None else inputs[k]
            if extra is not None:
                states = states + extra
            if encoded is not None and k < len(config.block_sizes) - 1:
                states = self._skip(states, encoded.blocks[k].states, k, at)
            mask = jnp.ones(states.shape[:2], jnp.float32)
            row = Sequence(states, mask, None, k)
            states = backwards(blocks[k], row, at, config.repeats[k]).states
            if k:
                states = self.upsamplers[k - 1](states, at.at("upsampler"))
                states = at.tap("upsampled", states)
                upsampled.insert(0, states)
        return states, upsampled

    def _skip(self, states: Array, encoder: Array, k: int, ctx: Context) -> Array:
        if self.residual is not None and ctx.train:
            return states + self.residual[k](encoder, ctx.at("residual"))
        return self.skip.mix(states, encoder, k, ctx)
