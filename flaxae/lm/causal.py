"""The forward pass, cache and loss that decoder-only language models share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.lm.attention import AttentionInputs
from flaxae.lm.config import CausalConfig
from flaxae.lm.layers import run_layers
from flaxae.lm.protocol import Cache
from flaxae.losses import cross_entropy, linear_cross_entropy
from flaxae.nn.bias import MASKED, causal_bias, segment_bias, segment_positions
from flaxae.nn.linear import Embedding, Linear, dropout
from flaxae.nn.stack import stacked
from flaxae.task import Context


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
        "mlp_in": "blocks.mlp.in",
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
        embedded: Float[Array, "B S D"] | None = None,
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
            embedded: vectors that replace the embeddings of the ids, such as soft prompts.

        Raises:
            ConfigError: if both a mask and segment_ids are given.
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
        x = self.embed(ids, ctx) if embedded is None else embedded
        x, _ = run_layers(self, x, ctx, inputs)
        return self.final_norm(x, ctx.at("final_norm"))

    def _attention_inputs(self, positions: Array, bias: Array) -> AttentionInputs:
        cos, sin = self.config.rope().angles(positions)
        return AttentionInputs(cos, sin, bias)

    def embed(self, ids: Int[Array, "B S"], ctx: Context) -> Float[Array, "B S D"]:
        """Return the vectors that the first layer reads."""
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
        embedded: Float[Array, "B S D"] | None = None,
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
            embedded: see `states`.

        Returns:
            The final hidden states, and the cache.
        """
        query = index + jnp.arange(ids.shape[1], dtype=jnp.int32)  # (S,)
        seen = jnp.arange(keys.shape[1], dtype=jnp.int32)[None] <= query[:, None]  # (S, T)
        allowed = seen[None] & (keys > 0)[:, None]
        bias = jnp.where(allowed, 0.0, MASKED)[:, None].astype(jnp.float32)
        inputs = self._attention_inputs(positions, bias)
        x = self.embed(ids, ctx) if embedded is None else embedded
        x, new_cache = run_layers(self, x, ctx, inputs, cache, index, blocks)
        return self.final_norm(x, ctx.at("final_norm")), new_cache

    def logits(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... V"]:
        """Return the scores of the vocabulary, float32."""
        if self.lm_head is not None:
            return self.lm_head(x, ctx.at("lm_head")).astype(jnp.float32)
        return self.embed_tokens.attend(x, ctx.at("embed_tokens"))

    def untie(self, kernel: Float[Array, "D V"] | None = None) -> None:
        """Replace a tied head by a Linear.

        Args:
            kernel: kernel of the head; None: the embedding's table, transposed.
        """
        config = self.config
        kernel = self.embed_tokens.table[...].T if kernel is None else kernel
        sizes, dtype = (config.d_model, config.vocab_size), jnp.dtype(config.dtype)
        head = nnx.eval_shape(lambda: Linear(*sizes, dtype=dtype, rngs=nnx.Rngs(0)))
        head.kernel = nnx.Param(kernel)
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
            ConfigError: if chunks are given and the head has an adapter.
        """
        flat = rearrange(x, "B S D -> (B S) D")
        targets, weights = targets.reshape(-1), weights.reshape(-1)  # (B * S,)
        if not chunks:
            return cross_entropy(self.logits(flat, ctx), targets, weights)
        adapters = vars(self.embed_tokens).get("adapters", {})
        tied = self.lm_head is None and not any(hasattr(x, "head") for x in adapters.values())
        require(tied or type(self.lm_head) is Linear, "chunks must be 0 if the head has an adapter")
        if self.lm_head is None:
            table = self.embed_tokens.table[...]
        else:
            table = self.lm_head.kernel[...].T
            if self.lm_head.bias is not None:  # as the weight of one more feature, which is 1
                table = jnp.concatenate([table, self.lm_head.bias[...][:, None]], axis=1)
                flat = jnp.concatenate([flat, jnp.ones_like(flat[:, :1])], axis=1)
        return linear_cross_entropy(flat, table, targets, weights, chunks)
