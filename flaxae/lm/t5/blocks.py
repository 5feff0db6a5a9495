"""T5's sizes, and the blocks that its encoder and decoder scan over."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config import Section
from flaxae.config.ranges import Count, Positive, Rate, Whole
from flaxae.errors import require
from flaxae.nn.attention import Attention
from flaxae.nn.bias import Bias
from flaxae.nn.linear import dropout
from flaxae.nn.mlp import MLP, FeedForward
from flaxae.nn.norm import RMSNorm
from flaxae.nn.segments import Segments
from flaxae.nn.stack import check_kept
from flaxae.task import Context


# Hashable: it is a static part of the model's graph, and does not change during a run.
@dataclasses.dataclass(unsafe_hash=True)
class T5Config(Section):
    """Sizes of a T5."""

    section: ClassVar[str] = "task.t5"

    d_model: Count = 192
    d_ff: Count = 768
    d_kv: Count = 48
    num_heads: Count = 4
    num_layers: Count = 2
    num_decoder_layers: Count = 2
    vocab_size: Whole = 0  # rows of the embedding table; 0: data.vocab_size
    relative_buckets: Count = 32
    relative_max_distance: Count = 128
    feed_forward: FeedForward = FeedForward.GATED_GELU
    tie_embeddings: bool = False  # v1.0: the head is the embedding
    scale_tied_head: bool = True  # v1.0: inputs of a tied head are scaled by d_model ** -0.5
    norm_eps: Positive = 1e-6
    dropout: Rate = 0.0
    dtype: str = "float32"  # type of the computation; parameters, softmax and logits are float32
    remat: bool = False  # recompute blocks in the backward pass
    remat_keep: str = "nothing"  # with remat, kept values: "products" of matmuls with weights
    scan_unroll: Count = 1  # layers per iteration of the scan

    def validate(self) -> None:
        """Raise ConfigError for sizes or options that do not go together."""
        # The encoder halves its buckets by direction, then both stacks by distance.
        buckets, distance = self.relative_buckets, self.relative_max_distance
        require(
            buckets % 2 == 0 and buckets >= 4,
            f"task.t5.relative_buckets={buckets} must be even, and at least 4",
        )
        require(
            distance > buckets // 2,
            f"task.t5.relative_max_distance={distance} must be above half of "
            f"task.t5.relative_buckets, {buckets // 2}",
        )
        check_kept(self.remat_keep, "task.t5.remat_keep", self.remat)
        kinds = ("float32", "bfloat16")
        require(
            self.dtype in kinds,
            f"task.t5.dtype={self.dtype!r} is not one of: {', '.join(kinds)}",
        )


def _attention(config: T5Config, rngs: nnx.Rngs) -> Attention:
    return Attention(
        config.d_model,
        config.num_heads,
        config.d_kv,
        dropout_rate=config.dropout,
        dtype=jnp.dtype(config.dtype),
        rngs=rngs,
    )


def _mlp(config: T5Config, rngs: nnx.Rngs) -> MLP:
    return MLP(
        config.d_model,
        config.d_ff,
        kind=config.feed_forward,
        dropout_rate=config.dropout,
        dtype=jnp.dtype(config.dtype),
        rngs=rngs,
    )


class EncoderBlock(nnx.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.attention_norm = RMSNorm(config.d_model, eps=config.norm_eps, dtype=dtype)
        self.attention = _attention(config, rngs)
        self.mlp_norm = RMSNorm(config.d_model, eps=config.norm_eps, dtype=dtype)
        self.mlp = _mlp(config, rngs)
        self.dropout_rate = config.dropout

    def __call__(
        self, x: Float[Array, "N D"], ctx: Context, segments: Segments, bias: list[Bias]
    ) -> Float[Array, "N D"]:
        """Return the residual stream after the block."""
        x, y = self.attention_norm.add_and_norm(ctx.tap("in", x), ctx)
        y = self.attention(y, ctx.at("attention"), segments=segments, bias=[*bias])
        y = dropout(y, self.dropout_rate, ctx.at("attention_dropout"))
        x, y = self.mlp_norm.add_and_norm(x, ctx, plus=y)
        y = self.mlp(ctx.at("mlp").tap("in", y), ctx.at("mlp"))
        return ctx.tap("out", x + dropout(y, self.dropout_rate, ctx.at("mlp_dropout")))


class DecoderBlock(nnx.Module):
    """Pre-norm causal self-attention, cross-attention and feed-forward."""

    def __init__(self, config: T5Config, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.attention_norm = RMSNorm(config.d_model, eps=config.norm_eps, dtype=dtype)
        self.attention = _attention(config, rngs)
        self.cross_norm = RMSNorm(config.d_model, eps=config.norm_eps, dtype=dtype)
        self.cross = _attention(config, rngs)
        self.mlp_norm = RMSNorm(config.d_model, eps=config.norm_eps, dtype=dtype)
        self.mlp = _mlp(config, rngs)
        self.dropout_rate = config.dropout

    def __call__(
        self,
        x: Float[Array, "N D"],
        ctx: Context,
        segments: Segments,
        bias: list[Bias],
        memory: Float[Array, "Nm D"],
        memory_segments: Segments,
        memory_bias: list[Bias],
        extras: dict[str, Array] | None = None,
    ) -> Float[Array, "N D"]:
        """Return the residual stream after the block, for all positions."""
        x, y = self.attention_norm.add_and_norm(x, ctx)
        slots = _slots(extras, segments)
        y = self.attention(y, ctx.at("attention"), segments=segments, bias=[*bias], slots=slots)
        y = dropout(y, self.dropout_rate, ctx.at("attention_dropout"))
        x, y = self.cross_norm.add_and_norm(x, ctx, plus=y)
        y = self.cross(
            y,
            ctx.at("cross"),
            segments=segments,
            bias=memory_bias,
            memory=memory,
            memory_segments=memory_segments,
        )
        y = _gated(y, extras)
        return self._feed(x, dropout(y, self.dropout_rate, ctx.at("cross_dropout")), ctx)

    def _feed(self, x: Array, plus: Array, ctx: Context) -> Array:
        x, y = self.mlp_norm.add_and_norm(x, ctx, plus=plus)
        y = self.mlp(y, ctx.at("mlp"))
        return ctx.tap("out", x + dropout(y, self.dropout_rate, ctx.at("mlp_dropout")))

    def step(
        self,
        x: Float[Array, "B D"],
        ctx: Context,
        cache: dict[str, Array],
        index: Int[Array, ""],
        bias: Float[Array, "1 H T"],
        memory_bias: Float[Array, "B 1 M"] | None,
        extras: dict[str, Array] | None = None,
    ) -> tuple[Float[Array, "B D"], dict[str, Array]]:
        """Return the residual stream after the block, for one position of all rows.

        Args:
            x: states of the position.
            ctx: context of this layer.
            cache: k, v (B, H, T, K) of the positions before (and of the slot after them), and
                memory_k, memory_v (B, H, M, K).
            index: the position.
            bias: added to the scores of self-attention.
            memory_bias: added to the scores of cross-attention; None: nothing.
            extras: this layer's inputs, see `Decoder`; the slot is in the cache already.

        Returns:
            The residual stream, (B, D), and the cache.
        """
        y = self.attention_norm(x, ctx)
        at = ctx.at("attention")
        q = self.attention.q(y, at.at("q"))
        k = self.attention.by_heads(self.attention.k(y, at.at("k")))[:, :, None]  # (B, H, 1, K)
        v = self.attention.by_heads(self.attention.v(y, at.at("v")))[:, :, None]
        k = jax.lax.dynamic_update_slice_in_dim(cache["k"], k, index, axis=2)
        v = jax.lax.dynamic_update_slice_in_dim(cache["v"], v, index, axis=2)
        x = x + self.attention.o(self.attention.attend_one(q, k, v, bias, at), at.at("o"))
        at = ctx.at("cross")
        q = self.cross.q(self.cross_norm(x, ctx), at.at("q"))
        y = self.cross.attend_one(q, cache["memory_k"], cache["memory_v"], memory_bias, at)
        y = _gated(self.cross.o(y, at.at("o")), extras)
        return self._feed(x, y, ctx), {**cache, "k": k, "v": v}


def _slots(extras: dict[str, Array] | None, segments: Segments) -> list[Array] | None:
    """Return the slots of each segment's rows, or None if there are none."""
    if extras is None or "slot" not in extras:
        return None
    starts = [sum(rows for rows, _ in segments[:i]) for i in range(len(segments))]
    return [extras["slot"][at : at + rows] for at, (rows, _) in zip(starts, segments, strict=True)]


def _gated(y: Array, extras: dict[str, Array] | None) -> Array:
    """Multiply the output of cross-attention by the layer's gate, if it has one."""
    if extras is None or "gate" not in extras:
        return y
    return y * extras["gate"].astype(y.dtype)
