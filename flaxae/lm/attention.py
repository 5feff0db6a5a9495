"""Causal self-attention of decoder-only language models, with rotary positions and a cache."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.lm.config import CausalConfig
from flaxae.nn.attention import grouped_attention
from flaxae.nn.linear import Linear
from flaxae.nn.rope import rotate
from flaxae.task import Context


@dataclasses.dataclass(frozen=True)
class AttentionInputs:
    """Inputs that the attention of all layers shares in one call.

    Attributes:
        cos, sin: rotary embedding of the positions.
        bias: added to the attention scores: 0 where a query sees a key, a large negative number
            where it does not.
    """

    cos: Float[Array, "B S half"]
    sin: Float[Array, "B S half"]
    bias: Float[Array, "_ 1 S T"]


class LayerCache:
    """Keys and values of one layer during a call.

    Args:
        kv: {"k", "v"}, (B, G, T, K), or (L, B, G, T, K) if `layer` is given.
        index: position at which new keys and values are written.
        layer: index of the layer in `kv`; None: `kv` belongs to this layer alone.
    """

    def __init__(
        self,
        kv: dict[str, Array],
        index: Int[Array, ""] | int,
        layer: Int[Array, ""] | None = None,
    ):
        self.kv, self.index, self.layer = kv, index, layer

    def update(
        self, k: Float[Array, "B G S K"], v: Float[Array, "B G S K"]
    ) -> tuple[Float[Array, "B G T K"], Float[Array, "B G T K"]]:
        """Write new keys and values; return those of all positions."""
        self.kv = {"k": self._written(self.kv["k"], k), "v": self._written(self.kv["v"], v)}
        k, v = self.kv["k"], self.kv["v"]
        if self.layer is None:
            return k, v
        one = jax.lax.dynamic_index_in_dim
        return one(k, self.layer, 0, False), one(v, self.layer, 0, False)

    def _written(self, whole: Array, new: Array) -> Array:
        new, zero, index = new.astype(whole.dtype), jnp.int32(0), jnp.int32(self.index)
        if self.layer is None:
            return jax.lax.dynamic_update_slice(whole, new, (zero, zero, index, zero))
        start = (self.layer, zero, zero, index, zero)
        return jax.lax.dynamic_update_slice(whole, new[None], start)


class SelfAttention(nnx.Module):
    """Causal attention with rotary positions.

    Args:
        config: sizes of the model.
        output: attribute name of the output's Linear, as in Hugging Face's files.
        use_bias: queries, keys, values and the output have a bias.
        rngs: `rngs.params()` is drawn from.
    """

    def __init__(
        self,
        config: CausalConfig,
        output: str,
        *,
        use_bias: bool,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.dtype(config.dtype)
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.dropout_rate, self.output = config.attention_dropout, output
        inner = config.num_heads * config.head_dim
        shared = config.num_kv_heads * config.head_dim
        args: Any = {"use_bias": use_bias, "dtype": dtype, "rngs": rngs}
        self.q_proj = Linear(config.d_model, inner, **args)
        self.k_proj = Linear(config.d_model, shared, **args)
        self.v_proj = Linear(config.d_model, shared, **args)
        setattr(self, output, Linear(inner, config.d_model, **args))

    def __call__(
        self,
        x: Float[Array, "B S D"],
        ctx: Context,
        inputs: AttentionInputs,
        cache: LayerCache | None = None,
    ) -> Float[Array, "B S D"]:
        """Attend over the positions of each row, and over those in the cache."""
        q = self._by_heads(self.q_proj(x, ctx.at("q_proj")))
        k = self._by_heads(self.k_proj(x, ctx.at("k_proj")))
        v = self._by_heads(self.v_proj(x, ctx.at("v_proj")))
        q, k = rotate(q, inputs.cos, inputs.sin), rotate(k, inputs.cos, inputs.sin)
        k, v = (rearrange(x, "B S G K -> B G S K") for x in (k, v))
        if cache is not None:
            k, v = cache.update(k, v)
        y = grouped_attention(
            q, k, v, inputs.bias, ctx, scale=self.head_dim**-0.5, dropout_rate=self.dropout_rate
        )
        return getattr(self, self.output)(y, ctx.at(self.output))

    def _by_heads(self, x: Float[Array, "B S HK"]) -> Float[Array, "B S H K"]:
        return rearrange(x, "B S (H K) -> B S H K", K=self.head_dim)
