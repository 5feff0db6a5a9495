"""The common part of decoder-only language models: attention, forward pass, cache and loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config import Section
from flaxae.errors import require
from flaxae.lm.layers import AttentionInputs, LayerCache, run_layers
from flaxae.lm.protocol import Cache
from flaxae.losses import cross_entropy, linear_cross_entropy
from flaxae.nn.attention import grouped_attention
from flaxae.nn.bias import MASKED, causal_bias, segment_bias, segment_positions
from flaxae.nn.linear import Embedding, Linear, dropout
from flaxae.nn.rope import Rope, rotate
from flaxae.nn.stack import check_kept, stacked
from flaxae.task import Context

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(unsafe_hash=True)
class CausalConfig(Section):
    """Sizes that all decoder-only models have."""

    d_model: int = 64
    d_ff: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4  # fewer than num_heads: query heads share keys and values
    head_dim: int = 16
    num_layers: int = 2
    vocab_size: int = 256
    max_length: int = 2048  # positions that the model was trained on
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    attention_dropout: float = 0.0
    bos_id: int = 1
    eos_ids: tuple = (2,)
    dtype: str = "float32"  # of the computation; norms, softmax and logits are float32
    remat: bool = False  # recompute blocks in the backward pass
    remat_keep: str = "nothing"  # with remat, what is kept: "products" of matmuls with weights
    scan_unroll: int = 1  # layers per iteration of the scan

    def validate(self) -> None:
        """Raise ConfigError for sizes or options that do not go together."""
        sizes = ("d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim", "num_layers")
        for name in (*sizes, "vocab_size", "max_length", "scan_unroll", "norm_eps", "rope_theta"):
            require(getattr(self, name) > 0, f"lm.{name}={getattr(self, name)} must be positive")
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"lm.num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}",
        )
        rate = self.attention_dropout
        require(0 <= rate < 1, f"lm.attention_dropout={rate} must be in [0, 1)")
        check_kept(self.remat_keep, "lm.remat_keep", self.remat)
        require(self.dtype in DTYPES, f"lm.dtype={self.dtype!r} is not one of: {', '.join(DTYPES)}")
        ints = all(isinstance(i, int) for i in self.eos_ids)
        require(ints and bool(self.eos_ids), f"lm.eos_ids={self.eos_ids} must be ids, at least one")

    @property
    def mlp_kernels(self) -> int:
        """Number of (d_model, d_ff) kernels in a block's feed-forward."""
        return 2

    def rope(self) -> Rope:
        """Return the rotary embedding of positions."""
        raise NotImplementedError


class SelfAttention(nnx.Module):
    """Causal attention with rotary positions.

    Args:
        config: sizes of the model.
        output: attribute name of the output's Linear, as in Hugging Face's files.
        use_bias: queries, keys and values have a bias.
        output_bias: the output has a bias.
        rngs: `rngs.params()` is drawn from.
    """

    def __init__(
        self,
        config: CausalConfig,
        output: str,
        *,
        use_bias: bool,
        output_bias: bool,
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
        args["use_bias"] = output_bias
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


class CausalLM(nnx.Module):
    """A decoder-only language model: embedding, scanned blocks, final norm and head.

    Args:
        config: sizes of the model.
        block: class of a block, called with (config, rngs).
        norm: class of the final norm.
        head_bias: an untied head has a bias.
        rngs: `rngs.params()` is drawn from.

    Attributes:
        config: sizes of the model.
        hooks: names of hidden states -> the paths of their taps, for `flaxae.activations`.
    """

    hooks: dict[str, str] = {
        "resid_in": "blocks.in",
        "resid_out": "blocks.out",
        "mlp_post": "blocks.mlp.hidden",
    }

    def __init__(
        self,
        config: CausalConfig,
        block: Callable[..., nnx.Module],
        norm: Callable[..., nnx.Module],
        *,
        head_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        config.validate()
        dtype = jnp.dtype(config.dtype)
        self.config = config
        std = config.d_model**-0.5 if config.tie_embeddings else 1.0
        self.embed_tokens = Embedding(
            config.vocab_size, config.d_model, std=std, dtype=dtype, rngs=rngs
        )
        self.blocks = stacked(lambda r: block(config, r), config.num_layers, rngs)
        self.final_norm = norm(config.d_model, eps=config.norm_eps, dtype=dtype)
        if config.tie_embeddings:
            self.lm_head = None
        else:
            sizes = (config.d_model, config.vocab_size)
            self.lm_head = Linear(*sizes, use_bias=head_bias, dtype=dtype, rngs=rngs)

    def __call__(
        self, ids: Int[Array, "B S"], ctx: Context, **kwargs: Any
    ) -> Float[Array, "B S V"]:
        """Return the logits of the next id at every position, float32; see `states`."""
        return self.logits(self.states(ids, ctx, **kwargs), ctx)

    def states(
        self,
        ids: Int[Array, "B S"],
        ctx: Context,
        *,
        mask: Float[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B S D"]:
        """Return the final hidden states, which `logits` reads.

        Args:
            ids: token ids.
            ctx: context of the model.
            mask: 1 for real tokens, 0 for padding, on either side; states at padding are
                undefined.
            segment_ids: for packed sequences, instead of a mask: 0 for padding, and a different
                number for each sequence, which sees itself only. `nn.bias.SHARED`, at the
                start of a row, marks a prefix that all sequences of the row share and see.
            positions: position of each id; default: counted from 0 in every row or segment.

        Raises:
            ConfigError: both a mask and segment_ids are given.
        """
        require(mask is None or segment_ids is None, "set mask or segment_ids, not both")
        if mask is not None:
            segment_ids = (mask > 0).astype(jnp.int32)
        if segment_ids is None:
            bias = causal_bias(ids.shape[1])
            default = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None], ids.shape)
        else:
            bias, default = segment_bias(segment_ids), segment_positions(segment_ids)
        inputs = self._attention_inputs(default if positions is None else positions, bias)
        x = self._embed(ids, ctx)
        x, _ = run_layers(self, x, ctx, inputs)
        return self.final_norm(x, ctx.at("final_norm"))

    def _attention_inputs(self, positions: Array, bias: Array) -> AttentionInputs:
        cos, sin = self.config.rope().angles(positions)
        return AttentionInputs(cos, sin, bias)

    def _embed(self, ids: Array, ctx: Context) -> Array:
        x = self.embed_tokens(ids, ctx.at("embed_tokens"))
        rate = getattr(self.config, "embedding_dropout", 0.0)
        return dropout(x, rate, ctx.at("embedding_dropout"))

    def init_cache(self, rows: int, length: int) -> dict[str, Array]:
        """Return empty keys and values of `length` positions: {"k", "v"}, (L, B, G, T, K)."""
        config = self.config
        shape = (config.num_layers, rows, config.num_kv_heads, length, config.head_dim)
        return {name: jnp.zeros(shape, jnp.dtype(config.dtype)) for name in ("k", "v")}

    def cached_states(
        self,
        ids: Int[Array, "B S"],
        ctx: Context,
        cache: Cache,
        index: Int[Array, ""] | int,
        *,
        positions: Int[Array, "B S"],
        keys: Int[Array, "B T"],
        blocks: list[Any] | None = None,
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Return the final states of ids that follow those in a cache.

        Args:
            ids: the next S ids of all rows.
            ctx: context of the model.
            cache: keys and values of the positions before, see `init_cache`; or `unstacked` of it.
            index: index in the cache of the first id.
            positions: position of each id in its text.
            keys: 1 if the cache, with these ids, contains a real token there; 0 for padding.
            blocks: `unstacked(self.blocks)`, made before a decoding loop, for a cache that is a
                list. A scan inside the loop would copy all weights in every iteration (CPU).

        Returns:
            The final hidden states, and the cache.
        """
        query = index + jnp.arange(ids.shape[1], dtype=jnp.int32)  # (S,)
        seen = jnp.arange(keys.shape[1], dtype=jnp.int32)[None] <= query[:, None]  # (S, T)
        allowed = seen[None] & (keys > 0)[:, None]
        bias = jnp.where(allowed, 0.0, MASKED)[:, None].astype(jnp.float32)
        inputs = self._attention_inputs(positions, bias)
        x = self._embed(ids, ctx)
        x, new_cache = run_layers(self, x, ctx, inputs, cache, index, blocks)
        return self.final_norm(x, ctx.at("final_norm")), new_cache

    def logits(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... V"]:
        """Return the scores of the vocabulary, float32."""
        if self.lm_head is not None:
            return self.lm_head(x, ctx.at("lm_head")).astype(jnp.float32)
        return self.embed_tokens.attend(x, ctx.at("embed_tokens"))

    def untie(self) -> None:
        """Replace a tied head by a Linear whose kernel is the embedding's table, transposed."""
        config, table = self.config, self.embed_tokens.table[...]
        sizes, dtype = (config.d_model, config.vocab_size), jnp.dtype(config.dtype)
        head = nnx.eval_shape(lambda: Linear(*sizes, dtype=dtype, rngs=nnx.Rngs(0)))
        head.kernel = nnx.Param(table.T)
        self.config = dataclasses.replace(config, tie_embeddings=False)
        del self.lm_head  # NNX treats None as static, and would keep treating the attribute so
        self.lm_head = head

    def loss(
        self,
        x: Float[Array, "B S D"],
        targets: Int[Array, "B S"],
        weights: Float[Array, "B S"],
        ctx: Context,
        chunks: int = 0,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the cross entropy of the next ids.

        Args:
            x: final hidden states, see `states`.
            targets: the id after each position.
            weights: weight of each target; 0 for padding and prompts.
            ctx: context of the model.
            chunks: number of parts that the tokens are cut into, so that the logits are never in
                memory as a whole; 0: all at once. It reads the head's kernel itself, so the head
                must not have an adapter.

        Returns:
            The sum over tokens, and the number of tokens whose target is the best id.

        Raises:
            ConfigError: chunks are asked for and the head has an adapter.
        """
        flat = rearrange(x, "B S D -> (B S) D")
        targets, weights = targets.reshape(-1), weights.reshape(-1)  # (B * S,)
        if not chunks:
            return cross_entropy(self.logits(flat, ctx), targets, weights)
        plain = self.lm_head is None or type(self.lm_head) is Linear
        require(plain, "chunks must be 0 if the head has an adapter")
        if self.lm_head is None:
            table = self.embed_tokens.table[...]
        else:
            table = self.lm_head.kernel[...].T
            if self.lm_head.bias is not None:  # as the weight of one more feature, which is 1
                table = jnp.concatenate([table, self.lm_head.bias[...][:, None]], axis=1)
                flat = jnp.concatenate([flat, jnp.ones_like(flat[:, :1])], axis=1)
        return linear_cross_entropy(flat, table, targets, weights, chunks)
