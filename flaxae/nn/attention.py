"""Attention over rows of one or several lengths (see `flaxae.nn.segments`)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn import gpu
from flaxae.nn.bias import Bias, bias_terms, with_slot
from flaxae.nn.linear import Linear, dropout
from flaxae.nn.segments import Segments, join_segments, split_segments
from flaxae.task import Context


class Attention(nnx.Module):
    """Multi-head attention without biases or 1/sqrt(K), which T5's initialisation absorbs."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_kv: int,
        *,
        dropout_rate: float = 0.0,
        dtype: jnp.dtype | type = jnp.float32,
        rngs: nnx.Rngs,
    ):
        inner = num_heads * d_kv
        std = d_model**-0.5
        self.q = Linear(d_model, inner, std=std * d_kv**-0.5, dtype=dtype, rngs=rngs)
        self.k = Linear(d_model, inner, std=std, dtype=dtype, rngs=rngs)
        self.v = Linear(d_model, inner, std=std, dtype=dtype, rngs=rngs)
        self.o = Linear(inner, d_model, std=inner**-0.5, dtype=dtype, rngs=rngs)
        self.num_heads, self.d_kv, self.dropout_rate = num_heads, d_kv, dropout_rate

    def __call__(
        self,
        x: Float[Array, "N D"],
        ctx: Context,
        *,
        segments: Segments,
        bias: Sequence[Bias],
        memory: Float[Array, "M D"] | None = None,
        memory_segments: Segments | None = None,
        slots: Sequence[Float[Array, "B HK"]] | None = None,
    ) -> Float[Array, "N D"]:
        """Attend within each row.

        Args:
            x: tokens of all segments.
            ctx: the context.
            segments: rows and length of each segment of x.
            bias: terms added to the scores, one entry per segment; see `Bias`.
            memory: source of keys and values; default x itself.
            memory_segments: rows and length of each segment of the memory; default `segments`.
            slots: one more key per row, which is its own value; one array per segment.

        Returns:
            New tokens, (N, D).
        """
        keys = segments if memory is None else memory_segments or segments
        heads = None
        if slots is None:
            heads = gpu.fused_attention(
                x,
                memory,
                (self.q, self.k, self.v),
                bias,
                ctx,
                num_heads=self.num_heads,
                segments=segments,
                memory_segments=keys,
                dropout_rate=self.dropout_rate,
            )
        if heads is None:
            source = x if memory is None else memory
            heads = self._attend_segments(x, source, segments, keys, bias, slots, ctx)
        return self.o(heads, ctx.at("o"))

    def _attend_segments(
        self,
        x: Float[Array, "N D"],
        source: Float[Array, "M D"],
        segments: Segments,
        keys: Segments,
        bias: Sequence[Bias],
        slots: Sequence[Float[Array, "B HK"]] | None,
        ctx: Context,
    ) -> Float[Array, "N HK"]:
        """Return the heads of all tokens, one segment after the other."""
        q = split_segments(self.q(x, ctx.at("q")), segments)
        k, v = self.keys_values(source, ctx, keys)
        if slots is not None:
            k, v = (
                [jnp.concatenate([p, s[:, None]], axis=1) for p, s in zip(x, slots, strict=True)]
                for x in (k, v)
            )
            bias = [tuple(with_slot(term) for term in bias_terms(b)) for b in bias]
        parts = [
            self.attend(*part, ctx.at(f"segment{i}"))
            for i, part in enumerate(zip(q, k, v, bias, strict=True))
        ]
        return join_segments(parts)

    def keys_values(
        self, memory: Float[Array, "M D"], ctx: Context, segments: Segments
    ) -> tuple[list[Array], list[Array]]:
        """Return keys and values of each segment, (rows, length, H * K) each."""
        k = split_segments(self.k(memory, ctx.at("k")), segments)
        v = split_segments(self.v(memory, ctx.at("v")), segments)
        return k, v

    def attend(
        self,
        q: Float[Array, "B S HK"],
        k: Float[Array, "B T HK"],
        v: Float[Array, "B T HK"],
        bias: Bias,
        ctx: Context,
    ) -> Float[Array, "B S HK"]:
        """Return softmax(q k^T + bias) v, the softmax in float32."""
        q, k, v = (
            rearrange(x, "B S (H K) -> B S H K", H=self.num_heads, K=self.d_kv) for x in (q, k, v)
        )
        scores = jnp.einsum("bshk,bthk->bhst", q, k, preferred_element_type=jnp.float32)
        for term in bias_terms(bias):
            scores = scores + term
        weights = ctx.tap("weights", _softmax(scores, v.dtype))
        weights = dropout(weights, self.dropout_rate, ctx)
        return rearrange(jnp.einsum("bhst,bthk->bshk", weights, v), "B S H K -> B S (H K)")

    def attend_one(
        self,
        q: Float[Array, "B HK"],
        k: Float[Array, "B H T K"],
        v: Float[Array, "B H T K"],
        bias: Float[Array, "_ _ T"] | None,
        ctx: Context,
    ) -> Float[Array, "B HK"]:
        """Return `attend` of one query per row.

        The keys' head axis comes before their positions, so that each head's product is contiguous.
        """
        scores = jnp.einsum(
            "bhk,bhtk->bht", self.by_heads(q), k, preferred_element_type=jnp.float32
        )
        if bias is not None:
            scores = scores + bias
        weights = ctx.tap("weights", jax.nn.softmax(scores, axis=-1)).astype(v.dtype)
        return rearrange(jnp.einsum("bht,bhtk->bhk", weights, v), "B H K -> B (H K)")

    def by_heads(self, x: Float[Array, "B ... HK"]) -> Float[Array, "B H ... K"]:
        """Move the heads to axis 1: (B, HK) -> (B, H, K), (B, T, HK) -> (B, H, T, K)."""
        return rearrange(x, "B ... (H K) -> B H ... K", H=self.num_heads, K=self.d_kv)


# Autodiff would keep the weights in float32 too.
@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(scores: Array, dtype: jnp.dtype) -> Array:
    """Return the softmax, computed in float32, stored in `dtype`."""
    return jax.nn.softmax(scores, axis=-1).astype(dtype)


def _softmax_forward(scores: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    weights: Any = _softmax(scores, dtype)
    return weights, weights


def _softmax_backward(dtype: jnp.dtype, weights: Array, grad: Array) -> tuple[Array]:
    weights, grad = weights.astype(jnp.float32), grad.astype(jnp.float32)
    product = weights * grad
    return (product - weights * jnp.sum(product, axis=-1, keepdims=True),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


def grouped_attention(
    q: Float[Array, "B S H K"],
    k: Float[Array, "B G T K"],
    v: Float[Array, "B G T K"],
    bias: Float[Array, "_ 1 S T"],
    ctx: Context,
    *,
    scale: float,
    dropout_rate: float = 0.0,
) -> Float[Array, "B S HK"]:
    """Return softmax(scale q k^T + bias) v; H / G query heads share each key head.

    This is grouped-query attention (Ainslie et al. 2023). Scores and softmax are float32. The keys'
    head axis comes before their positions, so that each product is contiguous.

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: added to the scaled scores of all heads.
        ctx: the context.
        scale: factor of the scores, usually 1 / sqrt(K).
        dropout_rate: probability that an attention weight is dropped in training.

    Returns:
        The heads side by side, (B, S, H * K).
    """
    length, heads, groups = q.shape[1], q.shape[2], k.shape[1]
    q = rearrange(q, "B S (G h) K -> B G (h S) K", G=groups)
    scores = jnp.einsum("bgsk,bgtk->bgst", q, k, preferred_element_type=jnp.float32)
    scores = rearrange(scores, "B G (h S) T -> B (G h) S T", S=length) * scale + bias
    weights = ctx.tap("weights", _softmax(scores, v.dtype))
    weights = dropout(weights, dropout_rate, ctx.at("dropout"))
    weights = rearrange(weights, "B (G h) S T -> B G (h S) T", G=groups)
    out = jnp.einsum("bgst,bgtk->bgsk", weights, v)
    return rearrange(out, "B G (h S) K -> B S (G h K)", h=heads // groups)
