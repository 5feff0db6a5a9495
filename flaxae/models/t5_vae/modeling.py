"""T5-VAE: a T5 whose decoder sees nothing of the text but one latent vector.

tokens -> T5 encoder -> bottleneck -> z
z -> memory tokens and per-position injection -> T5 decoder -> logits
"""

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae import decoding
from flaxae.config import Section, require
from flaxae.lm.t5.modeling import EOS, PAD, T5, T5Config, mask_unused, shift_right
from flaxae.nn.attention import Segments, join_segments, split_segments
from flaxae.nn.linear import Embedding, Linear
from flaxae.nn.norm import RMSNorm
from flaxae.task import Carry, Context

CACHE_AXES = {"layers": 1, "rows": 0}  # where the rows are in what `decode_step` caches


class Bottleneck(enum.Enum):
    FLATTEN = "flatten"  # z = sum_t W_t h_t: a linear map for each position
    MEAN = "mean"  # z = W mean_t h_t: throws the order away, and learns ten times slower


@dataclasses.dataclass(unsafe_hash=True)  # a static part of the model's graph, as T5Config
class LatentConfig(Section):
    """The latent and what surrounds it."""

    bottleneck: Bottleneck = Bottleneck.FLATTEN
    dim: int = 256
    num_latents: int = 1  # latents of `dim` each; the MMD, the KL and priors see them as one vector
    memory_tokens: int = 8  # 1 would make cross-attention a constant: softmax over one key
    injection: bool = True  # z -> one vector for each decoder position, added to its input
    positions: bool = True  # learned absolute positions on both sides
    noise_start: float = 0.0  # sigma of the Gaussian noise on z in training, at step 0
    noise_end: float = 0.0  # and from step noise_steps on, linear between
    noise_steps: int = 0
    scale_codes: bool = True  # decode clean codes at the norm that noise made the decoder expect
    queue: int = 0  # codes of earlier steps that the MMD also sees

    @property
    def size(self) -> int:
        """Of a whole code."""
        return self.num_latents * self.dim

    def validate(self) -> None:
        for name in ("dim", "num_latents", "memory_tokens"):
            require(
                getattr(self, name) > 0, f"latent.{name}={getattr(self, name)} must be positive"
            )
        for name in ("noise_start", "noise_end", "noise_steps", "queue"):
            require(getattr(self, name) >= 0, f"latent.{name}={getattr(self, name)} is negative")


class Flatten(nnx.Module):
    """z = sum over real positions t of W_t h_t."""

    def __init__(
        self, max_length: int, d_model: int, dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        std = (max_length * d_model) ** -0.5
        shape = (max_length, d_model, dim)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))
        self.dtype = dtype

    def __call__(self, states: list[Float[Array, "B S D"]]) -> Float[Array, "B Z"]:
        """All segments in one matmul; states are 0 at padding, and are padded to one length."""
        length, width, dim = self.kernel.shape
        padded = [jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0))) for x in states]
        flat = jnp.concatenate(padded).reshape(-1, length * width)  # (B, T * D)
        kernel = self.kernel[...].reshape(length * width, dim).astype(self.dtype)
        return jnp.matmul(flat, kernel, preferred_element_type=jnp.float32)


class T5VAE(nnx.Module):
    """An autoencoder of texts up to `max_length` tokens, EOS included."""

    def __init__(self, t5: T5Config, latent: LatentConfig, max_length: int, *, rngs: nnx.Rngs):
        """Draws all parameters.

        Args:
            t5: sizes of encoder and decoder.
            latent: the bottleneck and the decoder's side of it.
            max_length: of texts, in tokens.
            rngs: `rngs.params()` is drawn from.
        """
        dtype, width = jnp.dtype(t5.dtype), t5.d_model
        self.latent, self.max_length, self.dtype = latent, max_length, dtype
        self.t5 = T5(t5, rngs=rngs)
        if latent.bottleneck is Bottleneck.FLATTEN:
            self.flatten = Flatten(max_length, width, latent.size, dtype=dtype, rngs=rngs)
        else:
            self.pooled = Linear(width, latent.size, use_bias=True, dtype=dtype, rngs=rngs)
        tokens = latent.memory_tokens
        self.memory = Linear(latent.size, tokens * width, use_bias=True, dtype=dtype, rngs=rngs)
        self.memory_norm = RMSNorm(width, dtype=dtype)
        if latent.injection:
            size = max_length * width
            self.injection = Linear(latent.size, size, use_bias=True, dtype=dtype, rngs=rngs)
        if latent.positions:
            self.encoder_positions = Embedding(max_length, width, dtype=dtype, rngs=rngs)
            self.decoder_positions = Embedding(max_length, width, dtype=dtype, rngs=rngs)
        if latent.queue:
            # Starts as draws of the prior: the MMD is too low until the queue has filled once.
            shape = (latent.queue, latent.size)
            self.queue = Carry(jax.random.normal(rngs.params(), shape, jnp.float32))

    def sigma(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The noise's standard deviation at a step."""
        config = self.latent
        if not config.noise_steps:
            return jnp.float32(config.noise_end)
        share = jnp.minimum(step.astype(jnp.float32) / config.noise_steps, 1.0)
        return config.noise_start + (config.noise_end - config.noise_start) * share

    def clean_code(self, z: Float[Array, "B L Z"], step: Int[Array, ""]) -> Float[Array, "B L Z"]:
        """What to decode instead of a noiseless z: the decoder saw z + noise, of a larger norm."""
        if not self.latent.scale_codes:
            return z
        return z * jnp.sqrt(1 + jnp.square(self.sigma(step)))

    def encode(self, ids: list[Int[Array, "B S"]], ctx: Context) -> Float[Array, "B L Z"]:
        """Clean codes of texts: the posterior's means.

        Args:
            ids: for each length the rows of that length, EOS included, then 0.
            ctx: of the model.
        Returns:
            z of all rows in order, float32. Padding does not change it.
        """
        return self.posterior(ids, ctx)[0]

    def posterior(
        self, ids: list[Int[Array, "B S"]], ctx: Context
    ) -> tuple[Float[Array, "B L Z"], Float[Array, "B L Z"] | None]:
        """Mean and log-variance of the codes of texts (None: deterministic), as `encode`."""
        ctx = ctx.at("encoder")
        segments = segments_of(ids)
        masks = [(x != PAD).astype(self.dtype) for x in ids]
        x = self.t5.embedding(join_segments(ids), ctx)
        if self.latent.positions:
            x = x + self._spread(self.encoder_positions.table[...], segments)
        x = self.t5.encoder(x, ctx, segments=segments, masks=masks)
        states = [
            part * mask[:, :, None]
            for part, mask in zip(split_segments(x, segments), masks, strict=True)
        ]
        if self.latent.bottleneck is Bottleneck.FLATTEN:
            z = self.flatten(states)
        else:
            counts = [mask.sum(1, keepdims=True) for mask in masks]
            means = [s.sum(1) / jnp.maximum(c, 1) for s, c in zip(states, counts, strict=True)]
            z = self.pooled(jnp.concatenate(means), ctx.at("pooled"))
        z = z.astype(jnp.float32).reshape(-1, self.latent.num_latents, self.latent.dim)
        return ctx.tap("z", z), None

    def decode(
        self, z: Float[Array, "B L Z"], ids: list[Int[Array, "B S"]], ctx: Context
    ) -> Float[Array, "N D"]:
        """The decoder's states at every token of given texts (teacher forcing).

        Args:
            z: codes of all rows in order.
            ids: the texts, as for `encode`.
            ctx: of the model.
        Returns:
            All positions of all segments on one axis: what `t5.logits` and `t5.loss` read.
        """
        ctx = ctx.at("decoder")
        segments = segments_of(ids)
        rows = z.shape[0]
        x = self.t5.embedding(join_segments([shift_right(part) for part in ids]), ctx)
        if self.latent.positions:
            x = x + self._spread(self.decoder_positions.table[...], segments)
        if self.latent.injection:
            added = self._injected(z, ctx)  # (B, T, D)
            starts = [sum(r for r, _ in segments[:i]) for i in range(len(segments))]
            parts = [
                added[start : start + r, :length]
                for start, (r, length) in zip(starts, segments, strict=True)
            ]
            x = x + join_segments(parts)
        memory = self._memory(z, ctx).reshape(rows * self.latent.memory_tokens, -1)
        return self.t5.decoder(
            x,
            ctx,
            segments=segments,
            memory=memory,
            memory_segments=tuple((r, self.latent.memory_tokens) for r, _ in segments),
        )

    def decode_step(
        self, z: Float[Array, "B L Z"], ctx: Context, max_length: int = 0
    ) -> tuple[decoding.StepFn, dict[str, Any]]:
        """Cached decoding, one position at a time.

        Args:
            z: codes, as the decoder expects them (`clean_code`).
            ctx: of the model.
            max_length: the cache's size in tokens; 0: the model's max_length.
        Returns:
            (last ids (B,), cache, position) -> (logits (B, V), cache), and the cache to start
            from: {"layers": leaves (layer, B, ...), "rows": leaves (B, ...)}.
        """
        ctx = ctx.at("decoder")
        cache: dict[str, Any] = {
            "layers": self.t5.decoder.init_cache(
                self._memory(z, ctx), ctx, max_length or self.max_length
            ),
            "rows": {"injected": self._injected(z, ctx)} if self.latent.injection else {},
        }

        def step(last: Array, cache: dict, index: Array) -> tuple[Array, dict]:
            rows = cache["rows"]
            x = self.t5.embedding(last, ctx)
            if self.latent.positions:
                table = self.decoder_positions.table[...].astype(self.dtype)
                x = x + jax.lax.dynamic_slice_in_dim(table, index, 1)
            if self.latent.injection:
                x = x + jax.lax.dynamic_index_in_dim(rows["injected"], index, 1, keepdims=False)
            x, layers = self.t5.decoder.step(x, ctx, cache["layers"], index)
            return self.t5.logits(x, ctx), {"layers": layers, "rows": rows}

        return step, cache

    def generate(
        self,
        z: Float[Array, "B L Z"],
        ctx: Context,
        num_tokens: int = 0,
        max_length: int = 0,
        sampling: Any = None,
    ) -> Int[Array, "B T"]:
        """Decodes codes freely: KV-cached, one loop that ends when all rows have.

        Args:
            z: codes, as the decoder expects them (`clean_code`).
            ctx: of the model.
            num_tokens: ids from here on are never generated; 0: all may be.
            max_length: at most this many tokens; 0: the model's max_length.
            sampling: a `decoding.Sampling`; None: greedy.
        Returns:
            ids with EOS, then 0.
        """
        max_length = max_length or self.max_length
        step, cache = self.decode_step(z, ctx, max_length)

        def masked(last: Array, cache: Any, index: Array) -> tuple[Array, Any]:
            logits, cache = step(last, cache, index)
            return mask_unused(logits, num_tokens or logits.shape[-1]), cache

        start = jnp.full(z.shape[0], PAD, jnp.int32)
        if sampling is None:
            return decoding.greedy(masked, cache, start, max_length, eos=EOS, pad=PAD)
        return decoding.generate(  # pyright: ignore
            masked,
            cache,
            start,
            max_length,
            sampling,
            ctx.at("sample").key,
            eos=EOS,
            pad=PAD,
            cache_axes=CACHE_AXES,
        )

    def _memory(self, z: Float[Array, "B L Z"], ctx: Context) -> Float[Array, "B M D"]:
        memory = self.memory(flat(z), ctx.at("memory"))
        memory = memory.reshape(z.shape[0], self.latent.memory_tokens, -1)
        return self.memory_norm(memory, ctx)

    def _injected(self, z: Float[Array, "B L Z"], ctx: Context) -> Float[Array, "B T D"]:
        added = self.injection(flat(z), ctx.at("injection"))
        return added.reshape(z.shape[0], self.max_length, -1)

    def _spread(self, table: Float[Array, "T D"], segments: Segments) -> Float[Array, "N D"]:
        """One vector a position, for all rows of all segments."""
        table = table.astype(self.dtype)
        parts = [
            jnp.broadcast_to(table[None, :length], (rows, length, table.shape[-1]))
            for rows, length in segments
        ]
        return join_segments(parts)


def flat(z: Float[Array, "B L Z"]) -> Float[Array, "B LZ"]:
    """All latents of a row as one vector."""
    return z.reshape(z.shape[0], -1)


def segments_of(ids: list[Int[Array, "B S"]]) -> Segments:
    """((rows, length), ...) of a batch of several lengths."""
    return tuple((x.shape[0], x.shape[1]) for x in ids)
