"""Llama-style models (Touvron et al. 2023): Llama, TinyLlama, SmolLM2.

RMSNorm, SwiGLU, rotary positions, grouped queries; the head is tied to the embedding or not.
Modules have the names of Hugging Face's files.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config.ranges import Count, Positive
from flaxae.errors import require
from flaxae.lm.attention import AttentionInputs, LayerCache, SelfAttention
from flaxae.lm.causal import CausalLM
from flaxae.lm.config import CausalConfig
from flaxae.nn.linear import Linear
from flaxae.nn.norm import RMSNorm
from flaxae.nn.rope import Rope, RopeScaling
from flaxae.task import Context


# Hashable: it is a static part of the model's graph, and does not change during a run.
@dataclasses.dataclass(unsafe_hash=True)
class LlamaConfig(CausalConfig):
    """Sizes of a Llama-style model."""

    rope_scaling: RopeScaling = RopeScaling.NONE
    rope_factor: Positive = 1.0
    rope_low: Positive = 1.0  # Llama 3's scaling, see nn.rope
    rope_high: Positive = 4.0
    rope_original_length: Count = 8192
    attention_bias: bool = False
    mlp_bias: bool = False

    def validate(self) -> None:
        """Raise ConfigError for sizes that no Llama has."""
        super().validate()
        require(self.head_dim % 2 == 0, f"lm.head_dim={self.head_dim} must be even")
        require(
            self.rope_low < self.rope_high,
            f"lm.rope_low={self.rope_low} must be below rope_high={self.rope_high}",
        )

    @property
    def mlp_kernels(self) -> int:
        """Number of kernels in a block's feed-forward: gate_proj, up_proj, down_proj."""
        return 3

    def rope(self) -> Rope:
        """Return the rotary embedding of positions."""
        return Rope(
            self.head_dim,
            self.rope_theta,
            self.rope_scaling,
            self.rope_factor,
            self.rope_low,
            self.rope_high,
            self.rope_original_length,
        )


class LlamaMLP(nnx.Module):
    """down(silu(gate x) * up x) (Shazeer 2020)."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        dtype, bias = jnp.dtype(config.dtype), config.mlp_bias
        d, f = config.d_model, config.d_ff
        self.gate_proj = Linear(d, f, use_bias=bias, dtype=dtype, rngs=rngs)
        self.up_proj = Linear(d, f, use_bias=bias, dtype=dtype, rngs=rngs)
        self.down_proj = Linear(f, d, use_bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"], ctx: Context) -> Float[Array, "B S D"]:
        """Apply the feed-forward to each position."""
        x = ctx.tap("in", x)
        gate = self.gate_proj(x, ctx.at("gate_proj"))
        hidden = jax.nn.silu(gate) * self.up_proj(x, ctx.at("up_proj"))
        return self.down_proj(ctx.tap("hidden", hidden), ctx.at("down_proj"))


class LlamaBlock(nnx.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        dtype, bias = jnp.dtype(config.dtype), config.attention_bias
        self.input_layernorm = RMSNorm(config.d_model, eps=config.norm_eps, dtype=dtype)
        self.self_attn = SelfAttention(config, "o_proj", use_bias=bias, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(config.d_model, eps=config.norm_eps, dtype=dtype)
        self.mlp = LlamaMLP(config, rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        ctx: Context,
        inputs: AttentionInputs,
        cache: LayerCache | None = None,
    ) -> Float[Array, "B S D"]:
        """Return the residual stream after the block."""
        y = self.input_layernorm(x, ctx.at("input_layernorm"))
        x = x + self.self_attn(y, ctx.at("self_attn"), inputs, cache)
        y = self.post_attention_layernorm(x, ctx.at("post_attention_layernorm"))
        return x + self.mlp(y, ctx.at("mlp"))


class Llama(CausalLM):
    """A Llama-style language model; see CausalLM."""

    hooks = CausalLM.hooks | {
        "attn_out": "blocks.self_attn.o_proj.out",
        "mlp_pre": "blocks.mlp.gate_proj.out",
        "mlp_out": "blocks.mlp.down_proj.out",
    }

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        super().__init__(config, LlamaBlock, RMSNorm, rngs=rngs)
