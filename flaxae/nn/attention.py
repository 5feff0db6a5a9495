"""Attention over rows of one or several lengths, and T5's relative position bias.

Position-wise layers run on one token axis (N, D). Where a batch has rows of several lengths, that
axis is the concatenation of its segments, `((rows, length), ...)`, so every matmul is one large 2-D
product; only the attention itself looks at each segment's (rows, length).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.nn import gpu
from flaxae.nn.gpu.attention import fused_attention, supported
from flaxae.nn.linear import Linear, dropout, joinable, joined_product
from flaxae.task import Context

Segments = tuple[tuple[int, int], ...]
# What is added to the scores, (1 or rows, 1 or H, S, T), float32. A learned bias of all rows and
# a mask of each stay two arrays: their sum, and its gradient, would be as large as the scores.
# (rows, 1, 1, T), a mask of keys, is a constant.
Bias = Array | tuple[Array, ...] | None
MASKED = -1e9  # finite: a row with nothing to attend to stays finite
SHARED = -1  # a segment id: of what all segments of a row begin with


def split_segments(x: Float[Array, "N ..."], segments: Segments) -> list[Array]:
    """(N, ...) -> [(rows, length, ...), ...]."""
    out, start = [], 0
    for rows, length in segments:
        part = x if len(segments) == 1 else jax.lax.slice_in_dim(x, start, start + rows * length)
        out.append(part.reshape(rows, length, *x.shape[1:]))
        start += rows * length
    return out


def join_segments(parts: list[Array]) -> Float[Array, "N ..."]:
    """[(rows, length, ...), ...] -> (N, ...)."""
    flat = [p.reshape(-1, *p.shape[2:]) for p in parts]
    return flat[0] if len(flat) == 1 else jnp.concatenate(flat)


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
        memory: Float[Array, "Nm D"] | None = None,
        memory_segments: Segments | None = None,
        slots: Sequence[Float[Array, "B HK"]] | None = None,
    ) -> Float[Array, "N D"]:
        """Attends within each row.

        Args:
            x: tokens of all segments.
            segments: the rows and lengths of x.
            bias: for each segment what is added to the scores; see `Bias`.
            memory, memory_segments: what keys and values are made of; default x itself.
            slots: for each segment one more key, which is its own value, of each row.

        Returns:
            (N, D).
        """
        source, keys = (x, segments) if memory is None else (memory, memory_segments or segments)
        if slots is None and (terms := self._kernel_terms(segments, keys, bias, ctx)) is not None:
            if memory is None:
                joined = [joined_product(x, self.q, self.k, self.v)]
            else:
                joined = [joined_product(x, self.q), joined_product(source, self.k, self.v)]
            y = fused_attention(
                joined, *terms, heads=self.num_heads, width=self.d_kv, queries=segments, keys=keys
            )
            return self.o(y, ctx.at("o"))
        q = split_segments(self.q(x, ctx.at("q")), segments)
        k, v = self.keys_values(source, ctx, keys)
        if slots is not None:
            k, v = (
                [jnp.concatenate([p, s[:, None]], axis=1) for p, s in zip(x, slots, strict=True)]
                for x in (k, v)
            )
            bias = [tuple(with_slot(b) for b in _terms(bias)) for bias in bias]
        parts = [
            self.attend(*part, ctx.at(f"segment{i}"))
            for i, part in enumerate(zip(q, k, v, bias, strict=True))
        ]
        return self.o(join_segments(parts), ctx.at("o"))

    def _kernel_terms(
        self, segments: Segments, keys: Segments, bias: Sequence[Bias], ctx: Context
    ) -> tuple[list[Array], Array | None] | None:
        """The bias of each segment and the mask of all keys, if a GPU kernel can do the whole."""
        positions = sum(rows * length for rows, length in segments)
        if not gpu.usable(ctx, positions, self.q.dtype) or not joinable(self.q, self.k, self.v):
            return None
        if self.dropout_rate and ctx.train:
            return None
        if not supported(self.num_heads, self.d_kv, segments, keys):
            return None
        tables, masks = [], []
        for own, (rows, length), (_, width) in zip(bias, segments, keys, strict=True):
            terms = _terms(own)
            table = [t[0] for t in terms if t.shape == (1, self.num_heads, length, width)]
            mask = [t.reshape(-1) for t in terms if t.shape == (rows, 1, 1, width)]
            if len(table) > 1 or len(mask) > 1 or len(table) + len(mask) < len(terms):
                return None
            tables += table
            masks += mask
        if {len(tables), len(masks)} - {0, len(segments)}:
            return None
        return tables, jnp.concatenate(masks) if masks else None

    def keys_values(
        self, memory: Float[Array, "Nm D"], ctx: Context, segments: Segments
    ) -> tuple[list[Array], list[Array]]:
        """Keys and values of each segment, (rows, length, H * K) each."""
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
        """softmax(q k^T + bias) v, the softmax in float32."""
        heads = (self.num_heads, self.d_kv)
        q, k, v = (x.reshape(*x.shape[:2], *heads) for x in (q, k, v))
        scores = jnp.einsum("bshk,bthk->bhst", q, k, preferred_element_type=jnp.float32)
        for term in _terms(bias):
            scores = scores + term
        weights = ctx.tap("weights", _softmax(scores, v.dtype))
        weights = dropout(weights, self.dropout_rate, ctx)
        out = jnp.einsum("bhst,bthk->bshk", weights, v)
        return out.reshape(*out.shape[:2], -1)

    def attend_one(
        self,
        q: Float[Array, "B HK"],
        k: Float[Array, "B H T K"],
        v: Float[Array, "B H T K"],
        bias: Float[Array, "_ _ T"] | None,
        ctx: Context,
    ) -> Float[Array, "B HK"]:
        """`attend` of one query a row. Keys by heads: each head's product is then contiguous."""
        scores = jnp.einsum(
            "bhk,bhtk->bht", self.by_heads(q), k, preferred_element_type=jnp.float32
        )
        if bias is not None:
            scores = scores + bias
        weights = ctx.tap("weights", jax.nn.softmax(scores, axis=-1)).astype(v.dtype)
        return jnp.einsum("bht,bhtk->bhk", weights, v).reshape(q.shape)

    def by_heads(self, x: Float[Array, "B ... HK"]) -> Float[Array, "B H ... K"]:
        """(B, HK) -> (B, H, K), (B, T, HK) -> (B, H, T, K)."""
        x = x.reshape(*x.shape[:-1], self.num_heads, self.d_kv)
        return jnp.moveaxis(x, -2, 1)


def _terms(bias: Bias) -> tuple[Array, ...]:
    return bias if isinstance(bias, tuple) else () if bias is None else (bias,)


# Autodiff would keep the weights in float32 too.
@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(scores: Array, dtype: jnp.dtype) -> Array:
    """Taken in float32, kept in `dtype`."""
    return jax.nn.softmax(scores, axis=-1).astype(dtype)


def _softmax_forward(scores: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    weights: Any = _softmax(scores, dtype)
    return weights, weights


def _softmax_backward(dtype: jnp.dtype, weights: Array, grad: Array) -> tuple[Array]:
    weights, grad = weights.astype(jnp.float32), grad.astype(jnp.float32)
    product = weights * grad
    return (product - weights * jnp.sum(product, axis=-1, keepdims=True),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


class RelativeBias(nnx.Module):
    """T5's learned bias by bucketed distance between key and query; one a stack."""

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int,
        max_distance: int,
        bidirectional: bool,
        std: float,
        rngs: nnx.Rngs,
    ):
        table = jax.random.normal(rngs.params(), (num_buckets, num_heads), jnp.float32)
        self.table = nnx.Param(std * table)
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.bidirectional = bidirectional

    def __call__(self, queries: int, keys: int, ctx: Context) -> Float[Array, "1 H S T"]:
        """The bias of query positions 0..queries-1 and key positions 0..keys-1."""
        distance = np.arange(keys)[None, :] - np.arange(queries)[:, None]
        buckets = relative_buckets(
            distance, self.num_buckets, self.max_distance, self.bidirectional
        )
        bias = self.table[...][jnp.asarray(buckets)]  # (S, T, H)
        return bias.transpose(2, 0, 1)[None]


def relative_buckets(
    distance: Int[np.ndarray, "S T"], num_buckets: int, max_distance: int, bidirectional: bool
) -> Int[np.ndarray, "S T"]:
    """Buckets of key - query distances (Raffel et al. 2020): exact when near, else logarithmic."""
    base = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        base = np.where(distance > 0, num_buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = num_buckets // 2
    ratio = np.log(np.maximum(distance, 1) / exact) / math.log(max_distance / exact)
    far = exact + (ratio * (num_buckets - exact)).astype(np.int32)
    far = np.minimum(far, num_buckets - 1)
    return (base + np.where(distance < exact, distance, far)).astype(np.int32)


def causal_bias(length: int) -> Float[Array, "1 1 S S"]:
    """0 where a query may look (itself and before), MASKED elsewhere."""
    allowed = np.tril(np.ones((length, length), bool))
    return jnp.asarray(np.where(allowed, 0.0, MASKED).astype(np.float32))[None, None]


def with_slot(bias: Float[Array, "_ _ S T"]) -> Float[Array, "_ _ S U"]:
    """A bias with one more key after the others, seen by all."""
    return jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, 1)))


def padding_bias(mask: Float[Array, "B T"]) -> Float[Array, "B 1 1 T"]:
    """0 for real keys, MASKED for padding."""
    return jnp.where(mask > 0, 0.0, MASKED)[:, None, None, :].astype(jnp.float32)


def segment_bias(segment_ids: Int[Array, "B S"]) -> Float[Array, "B 1 S S"]:
    """0 where a query may look: itself and before, in its own segment; MASKED elsewhere.

    Args:
        segment_ids: of packed sequences, or 1 for what is real; 0 is padding; SHARED is what all
            of a row's sequences begin with, which stands before them and is seen by each.
    """
    length = segment_ids.shape[1]
    causal = np.tril(np.ones((length, length), bool))[None]
    keys = segment_ids[:, None, :]
    allowed = (segment_ids[:, :, None] == keys) | (keys == SHARED)
    allowed = allowed & (keys != 0) & causal
    return jnp.where(allowed, 0.0, MASKED)[:, None].astype(jnp.float32)


def segment_positions(segment_ids: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """Positions that start at 0 in every segment, so also after padding on the left.

    Where a row begins with what its segments share, they start after it, each.
    """
    where = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)[None]
    starts = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1]) != 0
    first = jnp.sum(segment_ids == SHARED, axis=1, keepdims=True, dtype=jnp.int32)
    own = where - jax.lax.cummax(jnp.where(starts, where, 0), axis=1)
    return own + jnp.where(segment_ids == SHARED, 0, first)


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
    """softmax(scale q k^T + bias) v, H / G query heads sharing each key (Ainslie et al. 2023).

    Scores and softmax are float32. Keys by heads: each product is then contiguous.
    """
    rows, length, heads, width = q.shape
    groups = k.shape[1]
    q = jnp.moveaxis(q, 2, 1).reshape(rows, groups, -1, width)  # (B, G, H/G * S, K)
    scores = jnp.einsum("bgsk,bgtk->bgst", q, k, preferred_element_type=jnp.float32)
    scores = scores.reshape(rows, heads, length, -1) * scale + bias  # (B, H, S, T)
    weights = ctx.tap("weights", _softmax(scores, v.dtype))
    weights = dropout(weights, dropout_rate, ctx.at("dropout"))
    weights = weights.reshape(rows, groups, -1, weights.shape[-1])
    out = jnp.einsum("bgst,bgtk->bgsk", weights, v).reshape(rows, heads, length, width)
    return jnp.moveaxis(out, 1, 2).reshape(rows, length, heads * width)
