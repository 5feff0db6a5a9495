"""T5-VAE: a T5 whose decoder sees nothing of the text but one latent vector.

tokens -> T5 encoder -> bottleneck -> z
z -> memory tokens and per-position injection -> T5 decoder -> logits
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae import decoding
from flaxae.lm.t5.modeling import EOS, PAD, T5, T5Config, shift_right
from flaxae.models.t5_vae import bottlenecks
from flaxae.models.t5_vae.bottlenecks import LatentConfig
from flaxae.nn.linear import Embedding, Linear
from flaxae.nn.norm import RMSNorm
from flaxae.nn.segments import Segments, join_segments, split_segments
from flaxae.nn.stack import unstacked
from flaxae.task import Carry, Context

CACHE_AXES = {"layers": 1, "rows": 0}  # where the rows are in what `decode_step` caches


class T5VAEModel(nnx.Module):
    """An autoencoder of texts up to `max_length` tokens, EOS included."""

    critic: Any  # of the objective, where it has one: so that they are saved with the model
    progress: Any

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
        # Named by its kind: weights of another kind are never taken for it.
        setattr(self, latent.bottleneck.value, bottlenecks.make(latent, t5, max_length, rngs))
        tokens = latent.memory_tokens
        self.memory = Linear(latent.size, tokens * width, use_bias=True, dtype=dtype, rngs=rngs)
        self.memory_norm = RMSNorm(width, dtype=dtype)
        if latent.injection:
            size = max_length * width
            self.injection = Linear(latent.size, size, use_bias=True, dtype=dtype, rngs=rngs)
        if latent.embed_injection:
            self.embed_injection = Linear(latent.size, width, dtype=dtype, rngs=rngs)
        if latent.kv_slot:
            size = t5.num_decoder_layers * t5.num_heads * t5.d_kv
            self.kv_slot = Linear(latent.size, size, dtype=dtype, rngs=rngs)
        if latent.cross_gate:
            self.cross_gate = nnx.Param(jnp.ones(t5.num_decoder_layers, jnp.float32))
        if latent.positions:
            self.encoder_positions = Embedding(max_length, width, dtype=dtype, rngs=rngs)
            self.decoder_positions = Embedding(max_length, width, dtype=dtype, rngs=rngs)
        if latent.queue:
            # Starts as draws of the prior: the MMD is too low until the queue has filled once.
            shape = (latent.queue, latent.size)
            self.queue = Carry(jax.random.normal(rngs.params(), shape, jnp.float32))

    @property
    def num_latents(self) -> int:
        """Latents per code."""
        return self.latent.num_latents

    @property
    def dim(self) -> int:
        """Width of a latent."""
        return self.latent.dim

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return self.t5.config.vocab_size

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
        self,
        ids: list[Int[Array, "B S"]],
        ctx: Context,
        embedded: Float[Array, "N D"] | None = None,
    ) -> tuple[Float[Array, "B L Z"], Float[Array, "B L Z"] | None]:
        """Mean and log-variance (None: deterministic codes) of q(z|x).

        Args:
            ids, ctx: as for `encode`.
            embedded: read instead of the ids' embeddings; ids then only tell what is padding.
        """
        ctx = ctx.at("encoder")
        segments = segments_of(ids)
        masks = [(x != PAD).astype(self.dtype) for x in ids]
        x = (
            self.t5.embedding(join_segments(ids), ctx.at("embedding"))
            if embedded is None
            else embedded
        )
        if self.latent.positions:
            x = x + self._spread(self.encoder_positions.table[...], segments)
        x = self.t5.encoder(x, ctx, segments=segments, masks=masks)
        states = [
            part * mask[:, :, None]
            for part, mask in zip(split_segments(x, segments), masks, strict=True)
        ]
        name = self.latent.bottleneck.value
        mean, log_variance = bottlenecks.split(
            getattr(self, name)(states, masks, ctx.at(name)), self.latent
        )
        return ctx.tap("z", mean), log_variance

    def decode(
        self,
        z: Float[Array, "B L Z"],
        ids: list[Int[Array, "B S"]],
        ctx: Context,
        inputs: list[Int[Array, "B S"]] | None = None,
    ) -> Float[Array, "N D"]:
        """The decoder's states at every token of given texts (teacher forcing).

        Args:
            z: codes of all rows in order.
            ids: the texts, as for `encode`.
            ctx: of the model.
            inputs: what the decoder reads; None: the texts, shifted right.

        Returns:
            All positions of all segments on one axis: what `t5.logits` and `t5.loss` read.
        """
        ctx = ctx.at("decoder")
        z = self._placed(z)
        segments = segments_of(ids)
        rows = z.shape[0]
        inputs = [shift_right(part) for part in ids] if inputs is None else inputs
        x = self.t5.embedding(join_segments(inputs), ctx.at("embedding"))
        if self.latent.positions:
            x = x + self._spread(self.decoder_positions.table[...], segments)
        added = self._added(z, ctx)
        if added is not None:
            starts = [sum(r for r, _ in segments[:i]) for i in range(len(segments))]
            parts = [
                jnp.broadcast_to(part, (r, length, part.shape[-1]))
                for start, (r, length) in zip(starts, segments, strict=True)
                for part in (added[start : start + r, :length],)
            ]
            x = x + join_segments(parts)
        memory = self._memory(z, ctx).reshape(rows * self.latent.memory_tokens, -1)
        return self.t5.decoder(
            x,
            ctx,
            segments=segments,
            memory=memory,
            memory_segments=tuple((r, self.latent.memory_tokens) for r, _ in segments),
            extras=self._extras(z, ctx),
        )

    def reencode(
        self, states: Float[Array, "N D"], ids: list[Int[Array, "B S"]], ctx: Context
    ) -> Float[Array, "B L Z"]:
        """Clean codes of what the decoder says, made differentiable.

        Args:
            states: what `decode` gave; the encoder reads the embeddings' mean under its softmax.
            ids: the texts that were decoded: their padding is the outputs'.
            ctx: of the model.
        """
        chances = jax.nn.softmax(self.t5.logits(states, ctx.at("decoder")), axis=-1)
        table = self.t5.embedding.table[...].astype(self.dtype)
        return self.posterior(ids, ctx, chances.astype(self.dtype) @ table)[0]

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
        z = self._placed(z)
        max_length = max_length or self.max_length
        extras, added = self._extras(z, ctx), self._added(z, ctx)
        decoder = self.t5.decoder
        layers = decoder.init_cache(self._memory(z, ctx), ctx, max_length, extras)
        blocks = unstacked(decoder.blocks) if isinstance(layers, list) else None
        cache: dict[str, Any] = {
            "layers": layers if blocks is None else {},
            "rows": {"layers": layers if blocks is not None else []},
        }
        if added is not None:
            cache["rows"]["added"] = added

        def step(last: Array, cache: dict, index: Array) -> tuple[Array, dict]:
            rows = cache["rows"]
            x = self.t5.embedding(last, ctx.at("embedding"))
            if self.latent.positions:
                table = self.decoder_positions.table[...].astype(self.dtype)
                x = x + jax.lax.dynamic_slice_in_dim(table, index, 1)
            if "added" in rows:
                at = index if self.latent.injection else 0  # one vector for all positions
                x = x + jax.lax.dynamic_index_in_dim(rows["added"], at, 1, keepdims=False)
            layers = rows["layers"] or cache["layers"]
            x, layers = decoder.step(x, ctx, layers, index, extras=extras, blocks=blocks)
            if rows["layers"]:
                cache = {**cache, "rows": {**rows, "layers": layers}}
            else:
                cache = {**cache, "layers": layers}
            return self.t5.logits(x, ctx), cache

        return step, cache

    def generate(
        self,
        z: Float[Array, "B L Z"],
        ctx: Context,
        num_tokens: int = 0,
        max_length: int = 0,
        sampling: decoding.Sampling | None = None,
        drop_ended: bool = False,
    ) -> Int[Array, "B T"]:
        """Decodes codes freely: KV-cached, one loop that ends when all rows have.

        Args:
            z: codes, as the decoder expects them (`clean_code`).
            ctx: of the model.
            num_tokens: ids from here on are never generated; 0: all may be.
            max_length: at most this many tokens; 0: the model's max_length.
            sampling: how ids are chosen; None: greedy.
            drop_ended: see `decoding.generate`.

        Returns:
            ids with EOS, then 0.
        """
        max_length = max_length or self.max_length
        step, cache = self.decode_step(z, ctx, max_length)

        def masked(last: Array, cache: Any, index: Array) -> tuple[Array, Any]:
            logits, cache = step(last, cache, index)
            return decoding.mask_unused(logits, num_tokens or logits.shape[-1]), cache

        start = jnp.full(z.shape[0], PAD, jnp.int32)
        return decoding.generate(
            masked,
            cache,
            start,
            max_length,
            sampling or decoding.Sampling(),
            ctx.at("sample").key,
            eos=EOS,
            pad=PAD,
            cache_axes=CACHE_AXES,
            drop_ended=drop_ended,
        )

    def _placed(self, z: Float[Array, "B L Z"]) -> Float[Array, "B L Z"]:
        """What the decoder reads of a code: nothing, its place on the sphere, or itself."""
        if self.latent.ignored:
            return jnp.ones_like(z)  # not 0: the memory's norm would divide by it
        return bottlenecks.on_sphere(z) if self.latent.sphere else z

    def _memory(self, z: Float[Array, "B L Z"], ctx: Context) -> Float[Array, "B M D"]:
        memory = self.memory(flat(z), ctx.at("memory"))
        memory = memory.reshape(z.shape[0], self.latent.memory_tokens, -1)
        return self.memory_norm(memory, ctx)

    def _added(self, z: Float[Array, "B L Z"], ctx: Context) -> Float[Array, "B T D"] | None:
        """What z adds to the decoder's embeddings; T is 1 where it is the same everywhere."""
        added = None
        if self.latent.injection:
            added = self.injection(flat(z), ctx.at("injection"))
            added = added.reshape(z.shape[0], self.max_length, -1)
        if self.latent.embed_injection:
            one = self.embed_injection(flat(z), ctx.at("embed_injection"))[:, None]
            added = one if added is None else added + one
        return added

    def _extras(self, z: Float[Array, "B L Z"], ctx: Context) -> dict[str, Array] | None:
        """What the decoder's layers get beside tokens and memory (see `Decoder`)."""
        extras: dict[str, Array] = {}
        if self.latent.kv_slot:
            slot = self.kv_slot(flat(z), ctx.at("kv_slot"))
            layers = self.t5.config.num_decoder_layers
            extras["slot"] = jnp.moveaxis(slot.reshape(z.shape[0], layers, -1), 1, 0)
        if self.latent.cross_gate:
            extras["gate"] = self.cross_gate[...]
        return extras or None

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
