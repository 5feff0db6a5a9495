"""T5 (Raffel et al. 2020): encoder, decoder, and cached decoding.

One module for each Hugging Face weight.

v1.0: ReLU, tied embeddings, scaled. v1.1, Flan, mT5, byT5: gated GELU, untied. UL2: gated SiLU.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.lm.t5.blocks import DecoderBlock, EncoderBlock, T5Config
from flaxae.losses import cross_entropy, linear_cross_entropy
from flaxae.nn.bias import Bias, RelativeBias, causal_bias, padding_bias, with_slot
from flaxae.nn.linear import Embedding, Linear, dropout
from flaxae.nn.norm import RMSNorm
from flaxae.nn.segments import Segments
from flaxae.nn.stack import call_blocks, scan_blocks, stacked, unstacked
from flaxae.task import Context

PAD, EOS = 0, 1


def _relative_bias(config: T5Config, bidirectional: bool, rngs: nnx.Rngs) -> RelativeBias:
    return RelativeBias(
        config.num_heads,
        num_buckets=config.relative_buckets,
        max_distance=config.relative_max_distance,
        bidirectional=bidirectional,
        std=config.d_model**-0.5,
        rngs=rngs,
    )


class Encoder(nnx.Module):
    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.relative_bias = _relative_bias(config, True, rngs)
        self.blocks = stacked(lambda r: EncoderBlock(config, r), config.num_layers, rngs)
        dtype = jnp.dtype(config.dtype)
        self.final_norm = RMSNorm(config.d_model, eps=config.norm_eps, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "N D"],
        ctx: Context,
        *,
        segments: Segments,
        masks: list[Float[Array, "B S"]],
    ) -> Float[Array, "N D"]:
        """Encodes embedded tokens.

        Args:
            x: embedded tokens of all segments.
            segments: ((rows, length), ...).
            masks: for each segment 1 for real tokens, 0 for padding.

        Returns:
            (N, D), normalised.
        """
        longest = max(length for _, length in segments)
        table = self.relative_bias(longest, longest, ctx)
        bias: list[Bias] = [
            (table[:, :, :length, :length], padding_bias(mask))
            for (_, length), mask in zip(segments, masks, strict=True)
        ]
        x = dropout(x, self.config.dropout, ctx.at("input_dropout"))
        x, _ = scan_blocks(
            lambda block, x, at, _: (block(x, at, segments, bias), None),
            self.blocks,
            x,
            ctx.at("blocks"),
            remat=self.config.remat,
            keep=self.config.remat_keep,
            unroll=self.config.scan_unroll,
        )
        x = self.final_norm(x, ctx)
        return dropout(x, self.config.dropout, ctx.at("output_dropout"))


class Decoder(nnx.Module):
    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.relative_bias = _relative_bias(config, False, rngs)
        self.blocks = stacked(lambda r: DecoderBlock(config, r), config.num_decoder_layers, rngs)
        dtype = jnp.dtype(config.dtype)
        self.final_norm = RMSNorm(config.d_model, eps=config.norm_eps, dtype=dtype)

    def __call__(
        self,
        x: Float[Array, "N D"],
        ctx: Context,
        *,
        segments: Segments,
        memory: Float[Array, "Nm D"],
        memory_segments: Segments,
        memory_masks: list[Float[Array, "B M"]] | None = None,
        extras: dict[str, Array] | None = None,
    ) -> Float[Array, "N D"]:
        """Decodes all positions at once, causally: padding after a row changes nothing in it.

        Args:
            x: embedded decoder inputs of all segments.
            segments: ((rows, length), ...) of x.
            memory: what is cross-attended to, with its segments and masks (None: all real).
            extras: what layers get beside it, on a leading layer axis: "slot" (layers, B, HK),
                one more key and value of self-attention; "gate" (layers,), a factor of what
                cross-attention adds.

        Returns:
            (N, D), normalised: what the head reads.
        """
        longest = max(length for _, length in segments)
        table = self.relative_bias(longest, longest, ctx) + causal_bias(longest)
        bias: list[Bias] = [table[:, :, :length, :length] for _, length in segments]
        if memory_masks is None:
            memory_bias: list[Bias] = [None] * len(segments)
        else:
            memory_bias = [padding_bias(mask) for mask in memory_masks]
        x = dropout(x, self.config.dropout, ctx.at("input_dropout"))
        args = (segments, bias, memory, memory_segments, memory_bias)
        x, _ = scan_blocks(
            lambda block, x, at, extras: (block(x, at, *args, extras), None),
            self.blocks,
            x,
            ctx.at("blocks"),
            extras,
            remat=self.config.remat,
            keep=self.config.remat_keep,
            unroll=self.config.scan_unroll,
        )
        x = self.final_norm(x, ctx)
        return dropout(x, self.config.dropout, ctx.at("output_dropout"))

    def init_cache(
        self,
        memory: Float[Array, "B M D"],
        ctx: Context,
        max_length: int,
        extras: dict[str, Array] | None = None,
    ) -> Any:
        """Keys and values of the memory, computed once, and empty ones for the tokens to come.

        A slot stands after them, where no token writes.

        Returns:
            Leaves (layers, B, H, positions, K); or, where scan_unroll covers all layers, a list of
            one layer each, leaves (B, H, positions, K): a loop updates those in place, and would
            copy the others in every turn.
        """
        rows, length, width = memory.shape
        flat = memory.reshape(rows * length, width)

        def one(block: Any, x: Any, at: Context, _: Any) -> Any:
            k, v = block.cross.keys_values(flat, at.at("cross"), ((rows, length),))
            k, v = block.cross.by_heads(k[0]), block.cross.by_heads(v[0])
            return x, {"memory_k": k, "memory_v": v}

        _, cache = scan_blocks(one, self.blocks, jnp.int32(0), ctx.at("blocks"))
        config = self.config
        layers, heads = config.num_decoder_layers, config.num_heads
        shape = (layers, rows, heads, max_length, config.d_kv)
        empty = jnp.zeros(shape, jnp.dtype(config.dtype))
        if extras is not None and "slot" in extras:
            slot = extras["slot"].astype(empty.dtype).reshape(layers, rows, heads, 1, config.d_kv)
            empty = jnp.concatenate([empty, slot], axis=3)
        cache = {**cache, "k": empty, "v": empty}
        return cache if config.scan_unroll < layers else unstacked(cache)

    def step(
        self,
        x: Float[Array, "B D"],
        ctx: Context,
        cache: Any,
        index: Int[Array, ""],
        memory_mask: Float[Array, "B M"] | None = None,
        extras: dict[str, Array] | None = None,
        blocks: list[Any] | None = None,
    ) -> tuple[Float[Array, "B D"], Any]:
        """Decodes position `index` of all rows.

        Args:
            x: embedded ids of this position.
            ctx: of the decoder.
            cache: of the positions before it.
            index: the position.
            memory_mask: 1 for real memory, 0 for padding; None: all real.
            extras: see `__call__`.
            blocks: `unstacked(self.blocks)` of before the loop, for a cache that is a list: taken
                apart in the loop, all weights would be copied in every turn.
        """
        slot = extras is not None and "slot" in extras
        max_length = jax.tree.leaves(cache)[0].shape[-2] - slot  # k's
        table = self.relative_bias(max_length, max_length, ctx) + causal_bias(max_length)
        bias = jax.lax.dynamic_slice_in_dim(table, index, 1, axis=2)  # (1, H, 1, T)
        bias = (with_slot(bias) if slot else bias)[:, :, 0]
        memory_bias = None if memory_mask is None else padding_bias(memory_mask)[:, :, 0]

        def call(block: Any, x: Any, at: Context, layer: Any) -> tuple[Any, Any]:
            return block.step(x, at, layer[0], index, bias, memory_bias, layer[1])

        at, unroll = ctx.at("blocks"), self.config.scan_unroll
        if isinstance(cache, list):
            own = unstacked(extras) if extras else [None] * len(cache)
            layers = list(zip(cache, own, strict=True))
            x, cache = call_blocks(call, blocks or unstacked(self.blocks), x, at, layers)
        else:
            x, cache = scan_blocks(call, self.blocks, x, at, (cache, extras), unroll=unroll)
        return self.final_norm(x, ctx), cache


class T5(nnx.Module):
    """Embedding, encoder, decoder and head. Families that stand on a T5 call its parts."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        require(config.vocab_size > 0, "t5.vocab_size is not set")
        dtype = jnp.dtype(config.dtype)
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.d_model, dtype=dtype, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        if config.tie_embeddings:
            self.head = None
        else:
            self.head = Linear(config.d_model, config.vocab_size, dtype=dtype, rngs=rngs)

    def logits(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... V"]:
        """Scores of the vocabulary, float32."""
        return self._scores(x, ctx).astype(jnp.float32)

    def _scores(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... V"]:
        """The logits as the head makes them; half as large in bfloat16."""
        if self.head is not None:
            return self.head(x, ctx.at("head"))
        return self.embedding.attend(self._scaled(x), ctx.at("embedding"))

    def loss(
        self,
        x: Float[Array, "N D"],
        targets: Int[Array, "N"],
        weights: Float[Array, "N"],
        ctx: Context,
        chunks: int = 0,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Cross entropy of what the head makes of x.

        Args:
            x: the decoder's output.
            targets, weights: ids, and 0 where they are padding.
            ctx: of the model.
            chunks: above 0 the logits are never held whole; into how many parts the tokens are cut.

        Returns:
            The sum over tokens, and how many have their target as the best id.
        """
        if not chunks:
            return cross_entropy(self._scores(x, ctx), targets, weights, ctx)
        head = self.embedding if self.head is None else self.head
        adapted = "adapters" in vars(head)  # which the kernel alone does not show
        require(not adapted, "loss_chunks must be 0 where the output head has an adapter")
        if self.head is None:
            x, table = self._scaled(x), self.embedding.table[...]
        else:
            table = self.head.kernel[...].T
        return linear_cross_entropy(x, table, targets, weights, chunks)

    def _scaled(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.config.d_model**-0.5 if self.config.scale_tied_head else 1.0
        return x * jnp.asarray(scale, x.dtype)


def shift_right(ids: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """Decoder inputs: the start id (the pad id), then all ids but the last."""
    return jnp.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
