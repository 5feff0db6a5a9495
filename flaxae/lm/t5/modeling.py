"""T5 (Raffel et al. 2020): encoder, decoder, and cached decoding.

There is one module for each Hugging Face weight.

v1.0: ReLU, tied embeddings, scaled. v1.1, Flan, mT5, byT5: gated GELU, untied. UL2: gated SiLU.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.lm.layers import scan_recorded
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
    """T5's encoder over embedded tokens."""

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
        """Encode embedded tokens.

        Args:
            x: embedded tokens of all segments.
            ctx: context of the encoder.
            segments: rows and length of each segment of x, ((rows, length), ...).
            masks: one mask per segment: 1 for real tokens, 0 for padding.

        Returns:
            The states after the final norm, (N, D).
        """
        longest = max(length for _, length in segments)
        table = self.relative_bias(longest, longest, ctx)
        bias: list[Bias] = [
            (table[:, :, :length, :length], padding_bias(mask))
            for (_, length), mask in zip(segments, masks, strict=True)
        ]
        x = dropout(x, self.config.dropout, ctx.at("input_dropout"))
        x = scan_recorded(
            lambda block, x, at: block(x, at, segments, bias),
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
    """T5's decoder over embedded tokens: all positions at once, or one by one with a cache."""

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
        """Decode all positions at once, causally, so that padding after a row has no effect on it.

        Args:
            x: embedded decoder inputs of all segments.
            ctx: context of the decoder.
            segments: rows and length of each segment of x, ((rows, length), ...).
            memory: states that cross-attention reads.
            memory_segments: rows and length of each segment of the memory.
            memory_masks: one mask per segment: 1 for real memory, 0 for padding; None: all real.
            extras: further inputs of the layers, on a leading layer axis: "slot" (layers, B, HK),
                one more key and value of self-attention; "gate" (layers,), a factor of the output
                of cross-attention.

        Returns:
            The states after the final norm, (N, D), which the head reads.
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
        """Return the keys and values of the memory, and empty ones for tokens to come.

        The slot of `extras` is put after them, where no token is written.

        Args:
            memory: states that cross-attention reads.
            ctx: context of the decoder.
            max_length: number of tokens to make room for.
            extras: see `__call__`.

        Returns:
            A dict of (layers, B, H, positions, K); or, if scan_unroll covers all layers, a list
            with one dict of (B, H, positions, K) per layer: a loop updates these in place, and
            would copy the stacked ones in every iteration.
        """
        rows, length, _ = memory.shape
        flat = rearrange(memory, "B M D -> (B M) D")

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
            slot = extras["slot"].astype(empty.dtype)
            slot = rearrange(slot, "L B (H K) -> L B H 1 K", H=heads)
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
        """Decode position `index` of all rows.

        Args:
            x: embedded ids of this position.
            ctx: context of the decoder.
            cache: keys and values of the positions before it, see `init_cache`.
            index: the position.
            memory_mask: 1 for real memory, 0 for padding; None: all real.
            extras: see `__call__`.
            blocks: `unstacked(self.blocks)`, made before the loop, for a cache that is a list; made
                inside the loop, it would copy all weights in every iteration.

        Returns:
            The state after the final norm, (B, D), and the cache.
        """
        slot = extras is not None and "slot" in extras
        max_length = jax.tree.leaves(cache)[0].shape[-2] - slot  # the first leaf is k
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
    """Embedding, encoder, decoder and head. Families that build on a T5 call its parts."""

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
        """Return the scores of the vocabulary, float32."""
        return self._scores(x, ctx).astype(jnp.float32)

    def _scores(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... V"]:
        """Return the scores in the dtype of the head, which is half as large in bfloat16."""
        if self.head is not None:
            return self.head(x, ctx.at("head"))
        return self.embedding.attend(self._scaled(x), ctx.at("embedding"))

    def untie(self, kernel: Float[Array, "D V"] | None = None) -> None:
        """Replace a tied head by a Linear, which contains the scale of a tied head's input.

        Args:
            kernel: kernel of the head, without the scale; None: the embedding's table, transposed.
        """
        config = self.config
        kernel = self.embedding.table[...].T if kernel is None else kernel
        sizes, dtype = (config.d_model, config.vocab_size), jnp.dtype(config.dtype)
        head = nnx.eval_shape(lambda: Linear(*sizes, dtype=dtype, rngs=nnx.Rngs(0)))
        head.kernel = nnx.Param(self._scaled(kernel))
        self.config = dataclasses.replace(config, tie_embeddings=False)
        del self.head  # NNX treats None as static, and would keep treating the attribute so
        self.head = head

    def loss(
        self,
        x: Float[Array, "N D"],
        targets: Int[Array, "N"],
        weights: Float[Array, "N"],
        ctx: Context,
        chunks: int = 0,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the cross entropy of the targets.

        Args:
            x: the decoder's output.
            targets: the id that is right at each position.
            weights: weight of each target; 0 for padding.
            ctx: context of the model.
            chunks: number of parts that the tokens are cut into, so that the logits are never in
                memory as a whole; 0: all at once.

        Returns:
            The sum over tokens, and the number of tokens whose target is the best id.

        Raises:
            ConfigError: if chunks are given and the head has an adapter.
        """
        if not chunks:
            return cross_entropy(self._scores(x, ctx), targets, weights, ctx)
        head = self.embedding if self.head is None else self.head
        adapted = "adapters" in vars(head)  # the chunked loss reads the kernel alone
        require(not adapted, "loss_chunks must be 0 if the output head has an adapter")
        if self.head is None:
            x, table = self._scaled(x), self.embedding.table[...]
        else:
            table = self.head.kernel[...].T
        return linear_cross_entropy(x, table, targets, weights, chunks)

    def _scaled(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.config.d_model**-0.5 if self.config.scale_tied_head else 1.0
        return x * jnp.asarray(scale, x.dtype)


def shift_right(ids: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """Return the decoder's inputs: the start id (the pad id), then all ids but the last."""
    return jnp.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
