"""T5-VAE: a T5 whose decoder reads a text only through its latent code.

tokens -> T5 encoder -> bottleneck -> z
z -> memory tokens and per-position injection -> T5 decoder -> logits
"""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae import decoding
from flaxae.lm.t5.modeling import EOS, PAD, T5, T5Config, shift_right
from flaxae.models.t5_vae import bottlenecks, reading
from flaxae.models.t5_vae.bottlenecks import LatentConfig
from flaxae.models.t5_vae.capacity import CapacityControl
from flaxae.nn.linear import Embedding, Linear
from flaxae.nn.norm import RMSNorm
from flaxae.nn.segments import Segments, join_segments, split_segments
from flaxae.nn.stack import unstacked
from flaxae.task import Carry, Context
from flaxae.text_autoencoder.channel import Channel, scheduled_sigma, transmit

CACHE_AXES = {"layers": 1, "rows": 0}  # the axis of the rows in each part of the cache


class T5VAEModel(nnx.Module):
    """An autoencoder of texts of up to `max_length` tokens, EOS included."""

    # Parts of the objective, set by the task if it has them: they are saved with the model.
    critic: Any
    progress: Any

    def __init__(self, t5: T5Config, latent: LatentConfig, max_length: int, *, rngs: nnx.Rngs):
        """Initialise the parameters.

        Args:
            t5: sizes of encoder and decoder.
            latent: the bottleneck, and how the decoder reads codes.
            max_length: maximum number of tokens per text, EOS included.
            rngs: source of the initialisation, by `rngs.params()`.
        """
        dtype, width = jnp.dtype(t5.dtype), t5.d_model
        self.latent, self.max_length, self.dtype = latent, max_length, dtype
        self.t5 = T5(t5, rngs=rngs)
        # Named by its kind, so that weights of another kind never fit.
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
        if latent.reads_noise:
            features = reading.NOISE_FEATURES
            self.noise_input = Linear(features, width, use_bias=True, dtype=dtype, rngs=rngs)
        if latent.target_bits:
            self.capacity = CapacityControl(
                latent.target_bits, latent.size, latent.channel, latent.noise_low
            )
        if latent.queue:
            # It starts as samples of the prior: the MMD is too low until it has filled once.
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

    @property
    def channel(self) -> Channel:
        """The form of the noise on codes."""
        return self.latent.channel

    @property
    def reads_noise(self) -> bool:
        """True if the decoder reads the standard deviation of the noise."""
        return self.latent.reads_noise

    def sigma(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return the standard deviation of the noise on codes at a step.

        With `reads_noise` it is the largest of that step, and the one that `target_bits` moves.
        """
        config = self.latent
        end: Any = self.capacity.sigma[...] if config.target_bits else config.noise_end
        return scheduled_sigma(config.noise_start, end, config.noise_steps, step)

    def lowest_sigma(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return the smallest standard deviation of a text's noise; `sigma` if all are equal."""
        high = self.sigma(step)
        return jnp.minimum(self.latent.noise_low, high) if self.reads_noise else high

    def drawn_sigma(self, rows: int, ctx: Context) -> Float[Array, "B"]:
        """Draw the standard deviation of each text's noise in training, for `reads_noise`."""
        low, high = self.lowest_sigma(ctx.step), self.sigma(ctx.step)
        return low + (high - low) * jax.random.uniform(ctx.at("sigma").key, (rows,))

    def clean_code(self, z: Float[Array, "B L Z"], step: Int[Array, ""]) -> Float[Array, "B L Z"]:
        """Scale clean codes to the norm of z + noise, which the decoder was trained on."""
        if self.channel is Channel.PRESERVING or not self.latent.scale_codes:
            return z
        sigma = self.latent.noise_low if self.reads_noise else self.sigma(step)
        return z * jnp.sqrt(1 + jnp.square(sigma))

    def received(
        self, z: Float[Array, "B L Z"], sigma: Float[Array, "..."], ctx: Context
    ) -> Float[Array, "B L Z"]:
        """Return codes with the noise of the channel.

        Args:
            z: clean codes.
            sigma: standard deviation of the noise, one for all texts or one per text.
            ctx: the step's context.
        """
        noise = jax.random.normal(ctx.at("noise").key, z.shape, jnp.float32)
        return transmit(z, sigma, self.channel, noise)

    def encode(self, ids: list[Int[Array, "B S"]], ctx: Context) -> Float[Array, "B L Z"]:
        """Return clean codes of texts: the means of q(z|x).

        Args:
            ids: one array per length; each row is a text with EOS, padded with 0.
            ctx: the step's context.

        Returns:
            Codes of all rows in order, float32. They do not depend on the padding.
        """
        return self.posterior(ids, ctx)[0]

    def posterior(
        self,
        ids: list[Int[Array, "B S"]],
        ctx: Context,
        embedded: Float[Array, "N D"] | None = None,
    ) -> tuple[Float[Array, "B L Z"], Float[Array, "B L Z"] | None]:
        """Return mean and log-variance of q(z|x); the latter is None if codes are deterministic.

        Args:
            ids: see `encode`.
            ctx: the step's context.
            embedded: replaces the embeddings of the ids, which then only mark the padding.
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
            x = x + self._per_position(self.encoder_positions.table[...], segments)
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
        sigma: Float[Array, "B"] | None = None,
    ) -> Float[Array, "N D"]:
        """Return the decoder's states at every token of given texts (teacher forcing).

        Args:
            z: codes of all rows in order.
            ids: the texts, see `encode`.
            ctx: the step's context.
            inputs: the decoder's inputs; None: the texts, shifted right.
            sigma: the noise that a decoder with `reads_noise` reads; None: `latent.noise_low`.

        Returns:
            States of all positions of all segments on one axis, for `t5.logits` and `t5.loss`.
        """
        ctx = ctx.at("decoder")
        z = reading.decoder_code(self.latent, z, sigma)
        segments = segments_of(ids)
        inputs = [shift_right(part) for part in ids] if inputs is None else inputs
        x = self.t5.embedding(join_segments(inputs), ctx.at("embedding"))
        if self.latent.positions:
            x = x + self._per_position(self.decoder_positions.table[...], segments)
        added = reading.input_bias(self, z, ctx, sigma)
        if added is not None:
            starts = [sum(r for r, _ in segments[:i]) for i in range(len(segments))]
            parts = [
                jnp.broadcast_to(part, (r, length, part.shape[-1]))
                for start, (r, length) in zip(starts, segments, strict=True)
                for part in (added[start : start + r, :length],)
            ]
            x = x + join_segments(parts)
        memory = rearrange(reading.memory(self, z, ctx), "b m d -> (b m) d")
        return self.t5.decoder(
            x,
            ctx,
            segments=segments,
            memory=memory,
            memory_segments=tuple((r, self.latent.memory_tokens) for r, _ in segments),
            extras=reading.layer_inputs(self, z, ctx),
        )

    def reencode(
        self, states: Float[Array, "N D"], ids: list[Int[Array, "B S"]], ctx: Context
    ) -> Float[Array, "B L Z"]:
        """Return clean codes of the decoder's soft output, differentiably.

        The encoder reads the mean embedding under the decoder's softmax at each position.

        Args:
            states: the result of `decode`.
            ids: the decoded texts, whose padding is also that of the output.
            ctx: the step's context.
        """
        probabilities = jax.nn.softmax(self.t5.logits(states, ctx.at("decoder")), axis=-1)
        table = self.t5.embedding.table[...].astype(self.dtype)
        return self.posterior(ids, ctx, probabilities.astype(self.dtype) @ table)[0]

    def decode_step(
        self,
        z: Float[Array, "B L Z"],
        ctx: Context,
        max_length: int = 0,
        sigma: Float[Array, "B"] | None = None,
    ) -> tuple[decoding.StepFn, dict[str, Any]]:
        """Prepare cached decoding, one position at a time.

        Args:
            z: codes as the decoder expects them (see `clean_code`).
            ctx: the step's context.
            max_length: the cache's size in tokens; 0: the model's max_length.
            sigma: see `decode`.

        Returns:
            A function (last ids (B,), cache, position) -> (logits (B, V), cache), and the initial
            cache: {"layers": leaves (layer, B, ...), "rows": leaves (B, ...)}.
        """
        ctx = ctx.at("decoder")
        z = reading.decoder_code(self.latent, z, sigma)
        max_length = max_length or self.max_length
        extras, added = reading.layer_inputs(self, z, ctx), reading.input_bias(self, z, ctx, sigma)
        decoder = self.t5.decoder
        layers = decoder.init_cache(reading.memory(self, z, ctx), ctx, max_length, extras)
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
                at = index if self.latent.injection else 0  # 0: one vector for all positions
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
        sigma: Float[Array, "B"] | None = None,
    ) -> Int[Array, "B T"]:
        """Decode codes freely, with a KV cache, in one loop that ends when all rows have ended.

        Args:
            z: codes as the decoder expects them (see `clean_code`).
            ctx: the step's context.
            num_tokens: ids from this one on are never generated; 0: all may be.
            max_length: maximum number of tokens; 0: the model's max_length.
            sampling: how ids are chosen; None: greedily.
            drop_ended: see `decoding.generate`.
            sigma: see `decode`.

        Returns:
            Ids with EOS, padded with 0.
        """
        max_length = max_length or self.max_length
        step, cache = self.decode_step(z, ctx, max_length, sigma)

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

    def _per_position(self, table: Float[Array, "T D"], segments: Segments) -> Float[Array, "N D"]:
        """Repeat one vector per position over all rows of all segments."""
        table = table.astype(self.dtype)
        parts = [
            jnp.broadcast_to(table[None, :length], (rows, length, table.shape[-1]))
            for rows, length in segments
        ]
        return join_segments(parts)


def segments_of(ids: list[Int[Array, "B S"]]) -> Segments:
    """Return ((rows, length), ...) of a batch of several lengths."""
    return tuple((x.shape[0], x.shape[1]) for x in ids)
