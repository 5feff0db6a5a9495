"""A layer of the Funnel Transformer: attention to relative positions, and a feed-forward layer.

Both are post-norm: LN(x + f(x)).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.lm.funnel.config import AttentionType, FunnelConfig
from flaxae.lm.funnel.pooling import positions
from flaxae.nn.linear import Linear, dropout
from flaxae.nn.norm import LayerNorm
from flaxae.task import Context

BOTH = 2  # segment id of a token that belongs to every segment (the first token)
MASKED = 1e6  # subtracted from the scores of padded keys


@dataclasses.dataclass
class Sequence:
    """The rows that a layer reads keys and values from, or that it makes queries of.

    Attributes:
        states: (B, S, D).
        mask: 1 for real states, 0 for padding, (B, S).
        segments: ids of the segments, (B, S); None: all states are in one segment.
        depth: number of poolings so far, which gives the positions.
    """

    states: Float[Array, "B S D"]
    mask: Float[Array, "B S"]
    segments: Int[Array, "B S"] | None
    depth: int

    @property
    def length(self) -> int:
        """The number of states of a row."""
        return self.states.shape[1]


def _linear(config: FunnelConfig, inputs: int, outputs: int, bias: bool, rngs: nnx.Rngs) -> Linear:
    std = (inputs + outputs) ** -0.5
    return Linear(inputs, outputs, use_bias=bias, std=std, dtype=jnp.dtype(config.dtype), rngs=rngs)


class Attention(nnx.Module):
    """Attention with scores of content, of relative positions and of segments.

    score_ij = (q_i + r_w) k_j + c_ij (q_i + r_r) W_R phi(p_i - p_j) + c_ij (q_i + r_s) e_ij, where
    phi(p) = [sin, cos] of p at frequencies 10000 ** (-2 i / D), e_ij is seg_embed[1] if i and j are
    in the same segment, else seg_embed[0], and c_ij is 0 for a separate first token, else 1. q and
    the r_* biases are scaled by 1 / sqrt(K) (Dai et al. 2020, section A.2).
    """

    def __init__(self, config: FunnelConfig, *, rngs: nnx.Rngs):
        width, heads, size = config.d_model, config.num_heads, config.d_head
        self.config = config
        self.q = _linear(config, width, heads * size, False, rngs)
        self.k = _linear(config, width, heads * size, True, rngs)
        self.v = _linear(config, width, heads * size, True, rngs)
        self.o = _linear(config, heads * size, width, True, rngs)

        def uniform(*shape: int) -> nnx.Param:
            top = config.initializer_range
            return nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, 0, top))

        self.content_bias = uniform(heads, size)  # r_w
        self.position_bias = uniform(heads, size)  # r_r
        self.position_kernel = uniform(width, heads, size)  # W_R
        self.segment_bias = uniform(heads, size)  # r_s
        self.segment_embedding = uniform(2, heads, size)  # other segment, same segment
        self.norm = LayerNorm(width, eps=config.norm_eps, dtype=jnp.dtype(config.dtype))

    def __call__(self, queries: Sequence, keys: Sequence, ctx: Context) -> Float[Array, "B S D"]:
        """Return LN(queries + attention to the keys).

        Args:
            queries: rows that attend; in a layer that pools they are shorter than the keys.
            keys: rows that are attended to.
            ctx: the context; attention weights may be tapped as "weights".
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        heads = {"H": config.num_heads, "K": config.d_head}
        q = self.q(queries.states, ctx.at("q")) * jnp.asarray(config.d_head**-0.5, dtype)
        k, v = self.k(keys.states, ctx.at("k")), self.v(keys.states, ctx.at("v"))
        q, k, v = (rearrange(x, "B S (H K) -> B S H K", **heads) for x in (q, k, v))
        scores = jnp.einsum(
            "bshk,bthk->bhst",
            q + self._bias(self.content_bias, q),
            k,
            preferred_element_type=jnp.float32,
        )
        relative = self._positions(q, queries, keys, ctx) + self._segments(q, queries, keys)
        if config.separate_cls:
            relative = relative * jnp.asarray(_without_first(queries.length, keys.length))
        scores = scores + relative - MASKED * (1 - keys.mask[:, None, None].astype(jnp.float32))
        weights = ctx.tap("weights", jax.nn.softmax(scores, axis=-1)).astype(dtype)
        weights = dropout(weights, config.attention_dropout, ctx.at("weights_dropout"))
        out = jnp.einsum("bhst,bthk->bshk", weights, v)
        out = self.o(rearrange(out, "B S H K -> B S (H K)"), ctx.at("o"))
        out = dropout(out, config.hidden_dropout, ctx.at("dropout"))
        return self.norm(queries.states + out, ctx)

    def _bias(self, bias: nnx.Param, like: Float[Array, "B S H K"]) -> Float[Array, "1 1 H K"]:
        scaled = bias[...] * self.config.d_head**-0.5
        return scaled[None, None].astype(like.dtype)

    def _positions(
        self, q: Float[Array, "B S H K"], queries: Sequence, keys: Sequence, ctx: Context
    ) -> Float[Array, "B H S T"]:
        """Return the scores of relative positions, float32."""
        config = self.config
        q = q + self._bias(self.position_bias, q)
        kernel = self.position_kernel[...].astype(q.dtype)
        if config.attention_type is AttentionType.FACTORIZED:
            return _factorized(q, kernel, queries, keys, config, ctx)
        return _relative_shift(q, kernel, queries, keys, config, ctx)

    def _segments(
        self, q: Float[Array, "B S H K"], queries: Sequence, keys: Sequence
    ) -> Float[Array, "B H S T"]:
        """Return the scores of segments, float32; one number per query if there is one segment."""
        q = q + self._bias(self.segment_bias, q)
        table = self.segment_embedding[...].astype(q.dtype)
        scores = jnp.einsum("bshk,ehk->bhse", q, table, preferred_element_type=jnp.float32)
        if queries.segments is None or keys.segments is None:
            return scores[..., 1:]
        ours, others = queries.segments[:, :, None], keys.segments[:, None, :]  # (B, S, T)
        same = (ours == others) | (ours == BOTH) | (others == BOTH)
        return jnp.where(same[:, None], scores[..., 1:], scores[..., :1])


def _without_first(queries: int, keys: int) -> np.ndarray:
    """Return factors of scores that are 0 in the first row and column, (1, 1, S, T)."""
    factors = np.ones((1, 1, queries, keys), np.float32)
    factors[..., 0, :] = factors[..., :, 0] = 0
    return factors


def _waves(at: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sines and cosines of positions, (positions, D / 2) each."""
    half = width // 2
    angles = at[:, None] * 10000.0 ** (-np.arange(half) / half)[None]
    return np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32)


def _factorized(
    q: Float[Array, "B S H K"],
    kernel: Float[Array, "D H K"],
    queries: Sequence,
    keys: Sequence,
    config: FunnelConfig,
    ctx: Context,
) -> Float[Array, "B H S T"]:
    """Score positions by sin(i - j) = sin i cos j - cos i sin j, and the same of the cosine."""
    dtype = q.dtype
    at = positions(queries.depth, queries.length, config)
    sin, cos = (jnp.asarray(x, dtype)[None, :, None] for x in _waves(at, config.d_model))
    sin = dropout(sin, config.hidden_dropout, ctx.at("sin_dropout"))
    cos = dropout(cos, config.hidden_dropout, ctx.at("cos_dropout"))
    read = jnp.einsum("bshk,dhk->bshd", q, kernel)
    along, across = jnp.split(read, 2, axis=-1)  # factors of sin(i - j) and of cos(i - j)
    read = jnp.concatenate([along * sin + across * cos, across * sin - along * cos], axis=-1)
    sin, cos = _waves(positions(keys.depth, keys.length, config), config.d_model)
    table = jnp.asarray(np.concatenate([cos, sin], axis=-1), dtype)  # (T, D)
    return jnp.einsum("bshd,td->bhst", read, table, preferred_element_type=jnp.float32)


def _relative_shift(
    q: Float[Array, "B S H K"],
    kernel: Float[Array, "D H K"],
    queries: Sequence,
    keys: Sequence,
    config: FunnelConfig,
    ctx: Context,
) -> Float[Array, "B H S T"]:
    """Score all differences of positions, then take those of each pair of positions.

    Positions are equally spaced, so the difference of query i and key j is entry
    t(i, j) = shift * (S - i) + j of one list, where shift is the ratio of the spacings.
    """
    length, shift = queries.length, 2 ** (queries.depth - keys.depth)
    start = positions(queries.depth, 1, config)[0] - positions(keys.depth, 1, config)[0]
    step, size = 2**keys.depth, shift * length + keys.length
    sin, cos = _waves(start + step * (shift * length - np.arange(size)), config.d_model)
    sin = dropout(jnp.asarray(sin, q.dtype), config.hidden_dropout, ctx.at("sin_dropout"))
    cos = dropout(jnp.asarray(cos, q.dtype), config.hidden_dropout, ctx.at("cos_dropout"))
    table = jnp.concatenate([sin, cos], axis=-1)
    table = jnp.einsum("td,dhk->thk", table, kernel)
    scores = jnp.einsum("bshk,thk->bhst", q, table, preferred_element_type=jnp.float32)
    # Entry t(i, j) of row i is entry i * (size - shift) + shift * S + j of the flat array.
    flat = rearrange(scores, "B H S R -> B H (S R)")[..., shift * length :]
    return rearrange(flat, "B H (S R) -> B H S R", S=length)[..., : keys.length]


class FeedForward(nnx.Module):
    """LN(x + W2 gelu(W1 x)), the tanh form of gelu."""

    def __init__(self, config: FunnelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.wi = _linear(config, config.d_model, config.d_ff, True, rngs)
        self.wo = _linear(config, config.d_ff, config.d_model, True, rngs)
        self.norm = LayerNorm(config.d_model, eps=config.norm_eps, dtype=jnp.dtype(config.dtype))

    def __call__(self, x: Float[Array, "B S D"], ctx: Context) -> Float[Array, "B S D"]:
        """Apply the layer to each state."""
        hidden: Any = jax.nn.gelu(self.wi(x, ctx.at("wi")), approximate=True)
        hidden = dropout(hidden, self.config.activation_dropout, ctx.at("hidden_dropout"))
        out = self.wo(ctx.tap("hidden", hidden), ctx.at("wo"))
        return self.norm(x + dropout(out, self.config.hidden_dropout, ctx.at("dropout")), ctx)


class Layer(nnx.Module):
    """Attention and feed-forward."""

    def __init__(self, config: FunnelConfig, *, rngs: nnx.Rngs):
        self.attention = Attention(config, rngs=rngs)
        self.mlp = FeedForward(config, rngs=rngs)

    def __call__(self, queries: Sequence, keys: Sequence, ctx: Context) -> Float[Array, "B S D"]:
        """Return the queries' new states, which may be tapped as "out"."""
        x = self.attention(queries, keys, ctx.at("attention"))
        return ctx.tap("out", self.mlp(x, ctx.at("mlp")))
