"""Encoders whose hidden states are read by hook and layer, as those of language models are.

Models of `flaxae.lm.protocol` have this interface themselves.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.lm.funnel.modeling import Funnel
from flaxae.lm.recorder import Recorder
from flaxae.lm.t5.generation import encode
from flaxae.lm.t5.modeling import T5
from flaxae.task import Context


class EncoderSizes(NamedTuple):
    """Sizes that readers of hidden states need."""

    num_layers: int
    d_model: int
    vocab_size: int


class T5States(nnx.Module):
    """The states of a T5's encoder."""

    hooks: dict[str, str] = {
        "resid_in": "encoder.blocks.in",
        "resid_out": "encoder.blocks.out",
        "attn_out": "encoder.blocks.attention.o.out",
        "mlp_in": "encoder.blocks.mlp.in",
        "mlp_post": "encoder.blocks.mlp.hidden",
        "mlp_out": "encoder.blocks.mlp.wo.out",
    }

    def __init__(self, t5: T5):
        self.embedding, self.encoder = t5.embedding, t5.encoder
        config = t5.config
        self.config = EncoderSizes(config.num_layers, config.d_model, config.vocab_size)

    def states(
        self,
        ids: Int[Array, "B S"],
        ctx: Context,
        *,
        mask: Float[Array, "B S"] | None = None,
        segment_ids: Any = None,
        positions: Any = None,
    ) -> Float[Array, "B S D"]:
        """Return the states after the last norm, which are undefined at padding."""
        require(segment_ids is None and positions is None, "an encoder's rows contain one text")
        mask = jnp.ones(ids.shape, jnp.float32) if mask is None else mask
        part: Any = self  # it has the two modules that `encode` uses
        final, taps = encode(part, ids, mask, ctx), ctx.taps
        if isinstance(taps, Recorder):
            split = {"B": ids.shape[0]}
            taps.states = {
                name: rearrange(x, "L (B S) D -> L B S D", **split)
                for name, x in taps.states.items()
            }
        return final


class FunnelStates(nnx.Module):
    """The states of a Funnel's encoder; a layer is a block, and later ones have fewer positions.

    It is for use in Python: the sae family, whose states must match tokens, does not open it.
    """

    hooks: dict[str, str] = {"resid_out": "encoder.blocks.out"}

    def __init__(self, funnel: Funnel):
        self.funnel = funnel
        config = funnel.config
        self.config = EncoderSizes(len(config.block_sizes), config.d_model, config.vocab_size)

    def states(
        self,
        ids: Int[Array, "B S"],
        ctx: Context,
        *,
        mask: Float[Array, "B S"] | None = None,
        segment_ids: Any = None,
        positions: Any = None,
    ) -> Float[Array, "B P D"]:
        """Return the states of the last block."""
        require(segment_ids is None and positions is None, "an encoder's rows contain one text")
        return self.funnel.encode(ids, ctx, mask=mask).states
