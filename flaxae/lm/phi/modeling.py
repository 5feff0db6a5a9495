"""Phi-1, 1.5 and 2 (Gunasekar et al. 2023; Li et al. 2023).

Attention and feed-forward both read one LayerNorm, and both are added to the residual; a part of
each head is rotated; every Linear has a bias, also the head. Modules have the names of Hugging
Face's files.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config.ranges import Count, Rate
from flaxae.errors import require
from flaxae.lm.attention import AttentionInputs, LayerCache, SelfAttention
from flaxae.lm.causal import CausalLM
from flaxae.lm.config import CausalConfig
from flaxae.nn.linear import Linear, dropout
from flaxae.nn.norm import LayerNorm
from flaxae.nn.rope import Rope
from flaxae.task import Context


# Hashable: it is a static part of the model's graph, and does not change during a run.
@dataclasses.dataclass(unsafe_hash=True)
class PhiConfig(CausalConfig):
    """Sizes of a Phi."""

    rotary_dim: Count = 8  # rotated features per head
    residual_dropout: Rate = 0.0
    embedding_dropout: Rate = 0.0

    def validate(self) -> None:
        """Raise ConfigError for sizes that no Phi has."""
        super().validate()
        require(
            self.rotary_dim % 2 == 0 and self.rotary_dim <= self.head_dim,
            f"lm.rotary_dim={self.rotary_dim} must be even and at most head_dim={self.head_dim}",
        )

    def rope(self) -> Rope:
        """Return the rotary embedding of positions."""
        return Rope(self.rotary_dim, self.rope_theta)


class PhiMLP(nnx.Module):
    """fc2(gelu(fc1 x)), with the tanh approximation of gelu."""

    def __init__(self, config: PhiConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.fc1 = Linear(config.d_model, config.d_ff, use_bias=True, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(config.d_ff, config.d_model, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"], ctx: Context) -> Float[Array, "B S D"]:
        """Apply the feed-forward to each position."""
        x = ctx.tap("in", x)
        hidden = jax.nn.gelu(self.fc1(x, ctx.at("fc1")), approximate=True)
        return self.fc2(ctx.tap("hidden", hidden), ctx.at("fc2"))


class PhiBlock(nnx.Module):
    """Self-attention and feed-forward in parallel, of one LayerNorm."""

    def __init__(self, config: PhiConfig, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.input_layernorm = LayerNorm(config.d_model, eps=config.norm_eps, dtype=dtype)
        self.self_attn = SelfAttention(config, "dense", use_bias=True, rngs=rngs)
        self.mlp = PhiMLP(config, rngs)
        self.dropout_rate = config.residual_dropout

    def __call__(
        self,
        x: Float[Array, "B S D"],
        ctx: Context,
        inputs: AttentionInputs,
        cache: LayerCache | None = None,
    ) -> Float[Array, "B S D"]:
        """Return the residual stream after the block."""
        y = self.input_layernorm(x, ctx.at("input_layernorm"))
        attended = self.self_attn(y, ctx.at("self_attn"), inputs, cache)
        attended = dropout(attended, self.dropout_rate, ctx.at("attention_dropout"))
        fed = dropout(self.mlp(y, ctx.at("mlp")), self.dropout_rate, ctx.at("mlp_dropout"))
        return x + attended + fed


class Phi(CausalLM):
    """A Phi language model; see CausalLM."""

    hooks = CausalLM.hooks | {
        "attn_out": "blocks.self_attn.dense.out",
        "mlp_pre": "blocks.mlp.fc1.out",
        "mlp_out": "blocks.mlp.fc2.out",
    }

    def __init__(self, config: PhiConfig, *, rngs: nnx.Rngs):
        super().__init__(config, PhiBlock, LayerNorm, head_bias=True, rngs=rngs)
