"""Heads over the states of all tokens, as in Hugging Face's classes."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.lm.funnel.config import FunnelConfig
from flaxae.nn.linear import Embedding, Linear, align
from flaxae.task import Context


class MaskedLMHead(nnx.Module):
    """Scores of the vocabulary: x E^T + b, or x W + b if the head is not tied."""

    def __init__(self, config: FunnelConfig, *, rngs: nnx.Rngs):
        self.bias = nnx.Param(jnp.zeros(config.vocab_size, jnp.float32))
        proj, dtype = None, jnp.dtype(config.dtype)
        if not config.tie_embeddings:
            proj = Linear(config.d_model, config.vocab_size, dtype=dtype, rngs=rngs)
        self.proj: Any = proj

    def __call__(
        self, x: Float[Array, "B S D"], embedding: Embedding, ctx: Context
    ) -> Float[Array, "B S V"]:
        """Return the scores, float32."""
        if self.proj is None:
            scores = embedding.attend(x, ctx.at("embedding"))
        else:
            scores = self.proj(x, ctx.at("proj")).astype(jnp.float32)
        return scores + align(self.bias[...], scores)


class Discriminator(nnx.Module):
    """A score per token that says whether it was replaced: w gelu(W x + b) + c (ELECTRA)."""

    def __init__(self, config: FunnelConfig, *, rngs: nnx.Rngs):
        dtype, width = jnp.dtype(config.dtype), config.d_model
        self.dense = Linear(width, width, use_bias=True, dtype=dtype, rngs=rngs)
        self.out = Linear(width, 1, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B S D"], embedding: Embedding, ctx: Context
    ) -> Float[Array, "B S"]:
        """Return the scores, float32."""
        del embedding  # heads have the same call
        hidden = jax.nn.gelu(self.dense(x, ctx.at("dense")), approximate=True)
        return self.out(hidden, ctx.at("out"))[..., 0].astype(jnp.float32)
