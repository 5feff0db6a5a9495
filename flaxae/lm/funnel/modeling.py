"""The Funnel Transformer: blocks of layers, each block at half of the length of the one before.

The encoder alone is Hugging Face's `FunnelBaseModel`; with a decoder, which reads the last block's
states at full length beside those of the first block, it is `FunnelModel`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.lm.funnel.config import FunnelConfig, Head
from flaxae.lm.funnel.heads import Discriminator, MaskedLMHead
from flaxae.lm.funnel.layers import Layer, Sequence
from flaxae.lm.funnel.pooling import (
    can_pool,
    first_of_pairs,
    pool_mask,
    pool_states,
    repeat_states,
)
from flaxae.lm.recorder import Recorder
from flaxae.nn.linear import Embedding, dropout
from flaxae.nn.norm import LayerNorm
from flaxae.nn.stack import scan_blocks, stacked
from flaxae.task import Context


class Block(nnx.Module):
    """Layers at one length: a first one, which may pool, and a stack of the others."""

    def __init__(self, config: FunnelConfig, num_layers: int, *, rngs: nnx.Rngs):
        self.config = config
        self.first = Layer(config, rngs=rngs)
        others = num_layers - 1
        self.rest: Any = stacked(lambda r: Layer(config, rngs=r), others, rngs) if others else None

    def __call__(
        self, x: Sequence, ctx: Context, *, pool: bool = False, repeats: int = 1
    ) -> tuple[Sequence, Float[Array, "A B P D"]]:
        """Apply the layers one after the other.

        Args:
            x: states of the block before.
            ctx: the block's context.
            pool: whether the first layer halves the length.
            repeats: times that each layer is applied before the next one.

        Returns:
            The block's states, and those after each application of a layer.
        """
        call, at = self._first(), ctx.at("first")
        x = self._pool(x, call, at) if pool else self.apply(x, call, at)
        states = [x.states]
        for _ in range(repeats - 1):
            x = self.apply(x, call, at)
            states.append(x.states)
        outs = jnp.stack(states)
        if self.rest is not None:
            x, more = self._scan(x, ctx, repeats)
            outs = jnp.concatenate([outs, more])
        return x, outs

    def apply(self, x: Sequence, layer: Any, ctx: Context) -> Sequence:
        """Return x after one layer that does not pool."""
        return dataclasses.replace(x, states=layer(x, x, ctx))

    def _first(self) -> Any:
        """Return the first layer, recomputed in the backward pass if the config says so."""
        return recomputed(self.first) if self.config.remat else self.first

    def _pool(self, x: Sequence, layer: Any, ctx: Context) -> Sequence:
        """Return x after the first layer, at half of the length."""
        config = self.config
        segments = None if x.segments is None else first_of_pairs(x.segments, config)
        queries = Sequence(
            pool_states(x.states, x.mask, config), pool_mask(x.mask, config), segments, x.depth + 1
        )
        out = layer(queries, x if config.pool_q_only else queries, ctx)
        return dataclasses.replace(queries, states=out)

    def _scan(self, x: Sequence, ctx: Context, repeats: int) -> tuple[Sequence, Array]:
        def call(layer: Any, states: Any, at: Context, _: Any) -> tuple[Any, Any]:
            outs = []
            for _ in range(repeats):
                row = dataclasses.replace(x, states=states)
                states = layer(row, row, at)
                outs.append(states)
            return states, jnp.stack(outs)

        config = self.config
        states, outs = scan_blocks(
            call, self.rest, x.states, ctx.at("rest"), remat=config.remat, unroll=config.scan_unroll
        )
        return dataclasses.replace(x, states=states), outs.reshape(-1, *states.shape)  # (L R, ...)


def recomputed(layer: Layer) -> Any:
    """Return a call of a layer that is recomputed in the backward pass."""
    graphdef, state = nnx.split(layer)

    def call(queries: Sequence, keys: Sequence, ctx: Context) -> Array:
        def run(state: Any, ours: Array, others: Array) -> tuple[Array, dict[str, Array]]:
            at = dataclasses.replace(ctx, taps=ctx.taps.fresh())
            rows = dataclasses.replace(queries, states=ours)
            source = rows if keys is queries else dataclasses.replace(keys, states=others)
            return nnx.merge(graphdef, state)(rows, source, at), at.taps.collected

        out, collected = jax.checkpoint(run)(state, queries.states, keys.states)
        ctx.taps.collected.update(collected)
        return out

    return call


@dataclasses.dataclass
class Encoded:
    """The encoder's result.

    Attributes:
        states: states of the last block, (B, P, D).
        mask: 1 for those that contain a real token, (B, P).
        first_block: states that Hugging Face's decoder reads beside them, (B, S, D).
        blocks: the rows after each block, the last included.
    """

    states: Float[Array, "B P D"]
    mask: Float[Array, "B P"]
    first_block: Float[Array, "B S D"]
    blocks: list[Sequence]


class Encoder(nnx.Module):
    """Blocks of layers over embedded tokens."""

    def __init__(self, config: FunnelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.blocks = nnx.List([Block(config, n, rngs=rngs) for n in config.block_sizes])

    def __call__(
        self,
        x: Float[Array, "B S D"],
        ctx: Context,
        *,
        mask: Float[Array, "B S"],
        segments: Int[Array, "B S"] | None = None,
    ) -> Encoded:
        """Encode embedded tokens of any length; a block does not pool what is too short.

        Args:
            x: embedded tokens.
            ctx: context of the encoder.
            mask: 1 for real tokens, 0 for padding.
            segments: ids of the segments; None: one segment. See `layers.BOTH`.
        """
        config, rows, first_block, after = self.config, Sequence(x, mask, segments, 0), x, []
        for i, block in enumerate(self.blocks):
            pool = i > 0 and can_pool(rows.length, config)
            at = ctx.at("blocks").at(str(i))
            rows, outs = block(rows, at, pool=pool, repeats=config.repeats[i])
            taps = ctx.taps
            if isinstance(taps, Recorder):
                taps.layer = i
            rows = dataclasses.replace(rows, states=ctx.at("blocks").tap("out", rows.states))
            if isinstance(taps, Recorder):
                taps.keep(i)
            if i == 0:  # Hugging Face counts applications here, not layers
                first_block = outs[config.block_sizes[0] - 1]
            after.append(rows)
        return Encoded(rows.states, rows.mask, first_block, after)


class Decoder(nnx.Module):
    """Hugging Face's decoder: layers at full length over repeated states of the last block."""

    def __init__(self, config: FunnelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.block = Block(config, config.num_decoder_layers, rngs=rngs)

    def __call__(
        self,
        encoded: Encoded,
        ctx: Context,
        *,
        mask: Float[Array, "B S"],
        segments: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B S D"]:
        """Return one state per token; arguments as in the encoder."""
        stride = 2 ** (len(self.config.block_sizes) - 1)
        x = repeat_states(encoded.states, stride, mask.shape[1], self.config)
        rows = Sequence(x + encoded.first_block, mask, segments, 0)
        return self.block(rows, ctx.at("block"))[0].states


class Embeddings(nnx.Module):
    """LN(E[ids]); positions enter in the attention."""

    def __init__(self, config: FunnelConfig, *, rngs: nnx.Rngs):
        require(config.vocab_size > 0, "task.funnel.vocab_size is not set")
        self.config, dtype = config, jnp.dtype(config.dtype)
        self.tokens = Embedding(
            config.vocab_size, config.d_model, std=config.embedding_std, dtype=dtype, rngs=rngs
        )
        self.norm = LayerNorm(config.d_model, eps=config.norm_eps, dtype=dtype)

    def __call__(self, ids: Int[Array, "B S"], ctx: Context) -> Float[Array, "B S D"]:
        """Return the embedded tokens."""
        x = self.norm(self.tokens(ids, ctx.at("tokens")), ctx)
        return dropout(x, self.config.hidden_dropout, ctx.at("dropout"))


class Funnel(nnx.Module):
    """Embeddings and encoder; Hugging Face's decoder and a head if the config has them."""

    def __init__(self, config: FunnelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs) if config.num_decoder_layers else None
        kinds = {Head.MASKED_LM: MaskedLMHead, Head.DISCRIMINATOR: Discriminator}
        kind = kinds.get(config.head)
        self.head: Any = None if kind is None else kind(config, rngs=rngs)

    def encode(
        self,
        ids: Int[Array, "B S"],
        ctx: Context,
        *,
        mask: Float[Array, "B S"] | None = None,
        segments: Int[Array, "B S"] | None = None,
    ) -> Encoded:
        """Return the encoder's states.

        Args:
            ids: token ids.
            ctx: context of the model.
            mask: 1 for real tokens, 0 for padding on the right; None: all are real.
            segments: ids of the segments; None: one segment. See `layers.BOTH`.
        """
        mask = jnp.ones(ids.shape, jnp.float32) if mask is None else mask
        x = self.embeddings(ids, ctx.at("embeddings"))
        return self.encoder(x, ctx.at("encoder"), mask=mask, segments=segments)

    def __call__(
        self,
        ids: Int[Array, "B S"],
        ctx: Context,
        *,
        mask: Float[Array, "B S"] | None = None,
        segments: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B S D"]:
        """Return the last states: one per token with a decoder, else those of the last block.

        Args:
            ids: see `encode`.
            ctx: see `encode`.
            mask: see `encode`.
            segments: see `encode`.
        """
        encoded = self.encode(ids, ctx, mask=mask, segments=segments)
        if self.decoder is None:
            return encoded.states
        mask = jnp.ones(ids.shape, jnp.float32) if mask is None else mask
        return self.decoder(encoded, ctx.at("decoder"), mask=mask, segments=segments)

    def logits(self, states: Float[Array, "B S D"], ctx: Context) -> Float[Array, "B S ..."]:
        """Return the head's scores of the last states, float32.

        Returns:
            (B, S, V) of a masked language model, (B, S) of a discriminator.

        Raises:
            ConfigError: if the config has no head.
        """
        require(self.head is not None, "this Funnel has no head: task.funnel.head is none")
        return self.head(states, self.embeddings.tokens, ctx.at("head"))
