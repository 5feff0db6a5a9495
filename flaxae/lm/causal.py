"""What the decoder-only language models share: attention with a cache, the scan, the head."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config import Section
from flaxae.errors import require
from flaxae.lm.layers import AttentionInputs, LayerCache, run_layers
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
    """Sizes that all of them have."""

    d_model: int = 64
    d_ff: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4  # fewer than num_heads: query heads share keys and values
    head_dim: int = 16
    num_layers: int = 2
    vocab_size: int = 256
    max_length: int = 2048  # positions that it was trained on
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    attention_dropout: float = 0.0
    bos_id: int = 1
    eos_ids: tuple = (2,)
    dtype: str = "float32"  # of the computation; norms, softmax and logits are float32
    remat: bool = False  # recompute blocks in the backward pass
    remat_keep: str = "nothing"  # but not this: "products", of matmuls with weights
    scan_unroll: int = 1  # layers in one iteration of the scan

    def validate(self) -> None:
        sizes = ("d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim", "num_layers")
        for name in (*sizes, "vocab_size", "max_length", "scan_unroll", "norm_eps", "rope_theta"):
            require(getattr(self, name) > 0, f"lm.{name}={getattr(self, name)} must be positive")
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"lm.num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}",
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
    """Causal attention with rotary positions; the output's Linear is named by the model.

    Args:
        config: of the model.
        output: the attribute of the output's Linear, as Hugging Face names it.
        use_bias: of queries, keys and values; output_bias: of the output.
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
        q = self._by_heads(self.q_proj(x, ctx.at("q_proj")))
        k = self._by_heads(self.k_proj(x, ctx.at("k_proj")))
        v = self._by_heads(self.v_proj(x, ctx.at("v_proj")))
        q, k = rotate(q, inputs.cos, inputs.sin), rotate(k, inputs.cos, inputs.sin)
        k, v = jnp.moveaxis(k, 2, 1), jnp.moveaxis(v, 2, 1)  # (B, G, S, K)
        if cache is not None:
            k, v = cache.update(k, v)
        y = grouped_attention(
            q, k, v, inputs.bias, ctx, scale=self.head_dim**-0.5, dropout_rate=self.dropout_rate
        )
        return getattr(self, self.output)(y, ctx.at(self.output))

    def _by_heads(self, x: Float[Array, "B S HK"]) -> Float[Array, "B S H K"]:
        return x.reshape(*x.shape[:2], -1, self.head_dim)


class CausalLM(nnx.Module):
    """Embedding, scanned blocks, final norm and head.

    Attributes:
        config: its sizes.
        hooks: name -> path of a tap, for `lm.activations`.
    """

    hooks: dict[str, str] = {
        "resid_in": "blocks.in",
        "resid_out": "blocks.out",
        "mlp_post": "blocks.mlp.hidden",
    }

    def __init__(
        self, config: Any, block: Any, norm: Any, *, head_bias: bool = False, rngs: nnx.Rngs
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

    def __call__(self, ids: Int[Array, "B S"], ctx: Context, **kwargs: Any) -> Array:
        """Scores of the next id at every position, (B, S, V), float32; see `states`."""
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
        """What the head reads.

        Args:
            ids: token ids.
            ctx: of the model.
            mask: 1 for real tokens, 0 for padding, on either side; states there mean nothing.
            segment_ids: of packed sequences, instead of a mask: 0 for padding, another number for
                each sequence; none sees another. `nn.bias.SHARED`, at the start of a row, is
                what all its sequences begin with: each sees it and goes on from there.
            positions: default: from 0 in every row or segment.
        """
        require(mask is None or segment_ids is None, "give a mask or segment_ids, not both")
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
        """Empty keys and values of `length` positions: {"k", "v"}, (L, B, G, T, K)."""
        config = self.config
        shape = (config.num_layers, rows, config.num_kv_heads, length, config.head_dim)
        return {name: jnp.zeros(shape, jnp.dtype(config.dtype)) for name in ("k", "v")}

    def cached_states(
        self,
        ids: Int[Array, "B S"],
        ctx: Context,
        cache: Any,
        index: Int[Array, ""] | int,
        *,
        positions: Int[Array, "B S"],
        keys: Int[Array, "B T"],
        blocks: list[Any] | None = None,
    ) -> tuple[Float[Array, "B S D"], Any]:
        """`states` of ids that follow those in a cache.

        Args:
            ids: the next S ids of all rows.
            ctx: of the model.
            cache: of the positions before, see `init_cache`; or `unstacked` of it.
            index: the place of the first id in it.
            positions: of the ids.
            keys: 1 where the cache, with these ids, holds a real token; 0 for padding.
            blocks: `unstacked(self.blocks)` of before a loop, for a cache that is a list. Scanned
                in a loop of decoding, all weights would be copied in every turn (CPU).

        Returns:
            What the head reads, and the cache.
        """
        here = index + jnp.arange(ids.shape[1], dtype=jnp.int32)  # (S,)
        seen = jnp.arange(keys.shape[1], dtype=jnp.int32)[None] <= here[:, None]  # (S, T)
        allowed = seen[None] & (keys > 0)[:, None]
        bias = jnp.where(allowed, 0.0, MASKED)[:, None].astype(jnp.float32)
        x, cache = run_layers(
            self,
            self._embed(ids, ctx),
            ctx,
            self._attention_inputs(positions, bias),
            cache,
            index,
            blocks,
        )
        return self.final_norm(x, ctx.at("final_norm")), cache

    def logits(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... V"]:
        """Scores of the vocabulary, float32."""
        if self.lm_head is not None:
            return self.lm_head(x, ctx.at("lm_head")).astype(jnp.float32)
        return self.embed_tokens.attend(x, ctx.at("embed_tokens"))

    def untie(self) -> None:
        """Gives a tied head a kernel of its own: the embedding's table as it is."""
        config, table = self.config, self.embed_tokens.table[...]
        sizes, dtype = (config.d_model, config.vocab_size), jnp.dtype(config.dtype)
        head = nnx.eval_shape(lambda: Linear(*sizes, dtype=dtype, rngs=nnx.Rngs(0)))
        head.kernel = nnx.Param(table.T)
        self.config = dataclasses.replace(config, tie_embeddings=False)
        del self.lm_head  # None is static to NNX, and would stay so
        self.lm_head = head

    def loss(
        self,
        x: Float[Array, "B S D"],
        targets: Int[Array, "B S"],
        weights: Float[Array, "B S"],
        ctx: Context,
        chunks: int = 0,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Cross entropy of the next ids.

        Args:
            x: what `states` gives.
            targets: the id after each position.
            weights: 0 where it does not count (padding, a prompt).
            ctx: of the model.
            chunks: above 0 the logits are never held whole; into how many parts the tokens are
                cut. That reads the head's own kernel, so no adapter may stand there.

        Returns:
            The sum over tokens, and how many have their target as the best id.
        """
        flat, targets, weights = x.reshape(-1, x.shape[-1]), targets.reshape(-1), weights.ravel()
        if not chunks:
            return cross_entropy(self.logits(flat, ctx), targets, weights)
        plain = self.lm_head is None or type(self.lm_head) is Linear
        require(plain, "chunks must be 0 where the head has an adapter")
        if self.lm_head is None:
            table = self.embed_tokens.table[...]
        else:
            table = self.lm_head.kernel[...].T
            if self.lm_head.bias is not None:  # one more feature, which is 1 everywhere
                table = jnp.concatenate([table, self.lm_head.bias[...][:, None]], axis=1)
                flat = jnp.concatenate([flat, jnp.ones_like(flat[:, :1])], axis=1)
        return linear_cross_entropy(flat, table, targets, weights, chunks)
