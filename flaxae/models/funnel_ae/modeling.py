"""The model: a Funnel Transformer to a code, and the same blocks in reverse back to tokens."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.data.tokenizer import PAD
from flaxae.decoding import Sampling
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.lm.funnel.modeling import Embeddings, Encoded, Encoder
from flaxae.lm.funnel.pooling import block_lengths
from flaxae.models.funnel_ae import places
from flaxae.models.funnel_ae.decoder import Decoder
from flaxae.models.funnel_ae.latents import Bottleneck, Encoding, LatentConfig, Latents, Moments
from flaxae.models.funnel_ae.skips import SkipConfig
from flaxae.models.funnel_ae.upsampling import Upsampling, haar
from flaxae.task import Context


class FunnelAEModel(nnx.Module):
    """Embedding, encoder, bottleneck and decoder, over rows of a fixed number of places.

    Its methods are those of `text_autoencoder.protocol.LatentModel`.
    """

    def __init__(
        self,
        config: FunnelConfig,
        latent: LatentConfig,
        max_length: int,
        *,
        upsampling: Upsampling,
        skip: SkipConfig,
        share: bool,
        rngs: nnx.Rngs,
    ):
        self.config, self.options, self.max_length = config, latent, max_length
        self.lengths = tuple(block_lengths(max_length, config))
        gaussian = latent.kind is Bottleneck.KL
        width, dtype = config.d_model, jnp.dtype(config.dtype)
        frozen = latent.encoding is Encoding.FROZEN
        inner = nnx.Rngs(params=rngs.frozen()) if frozen else rngs
        self.embeddings = Embeddings(config, rngs=rngs)
        self.encoder = Encoder(config, rngs=inner)
        dims = (*(latent.block_dims or (0,) * (len(self.lengths) - 1)), latent.dim)
        self.latents = nnx.Dict(
            {
                str(k): Latents(width, dim, gaussian, dtype, rngs=rngs)
                for k, dim in enumerate(dims)
                if dim
            }
        )
        self.decoder = Decoder(config, upsampling, skip, share, rngs=rngs)
        shape = (self.num_latents, self.dim)
        self.moments: Any = Moments(shape) if latent.encoding is Encoding.RANDOM else None

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.config.vocab_size

    @property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Numbers of latents and their width, of each block that has latents."""
        if not self.options.dim:
            inner = {str(len(self.lengths) - 1): (self.lengths[-1], self.config.d_model)}
        else:
            inner = {str(len(self.lengths) - 1): (self.lengths[-1], self.options.dim)}
        dims = self.options.block_dims
        return {str(k): (self.lengths[k], d) for k, d in enumerate(dims) if d} | inner

    @property
    def num_latents(self) -> int:
        """Number of latent vectors per code."""
        return 1 if len(self._sizes) > 1 else self.lengths[-1]

    @property
    def dim(self) -> int:
        """Width of a latent vector."""
        return sum(n * d for n, d in self._sizes.values()) // self.num_latents

    def encoded(self, ids: Int[Array, "B N"], ctx: Context) -> Encoded:
        """Return the encoder's states of padded rows."""
        mask = (ids != PAD).astype(jnp.float32)
        x = self.embeddings(ids, ctx.at("embeddings"))
        return self.encoder(x, ctx.at("encoder"), mask=mask)

    def posterior(
        self, encoded: Encoded, ctx: Context
    ) -> tuple[Float[Array, "B L Z"], Float[Array, "B L Z"] | None]:
        """Return the codes' means and logarithms of variances; None without a Gaussian."""
        means, variances, at = [], [], ctx.at("latents")
        for k in self._sizes:
            states = encoded.blocks[int(k)].states
            if k in self.latents:
                mean, log_variance = self.latents[k].posterior(states, at.at(k))
            else:
                mean, log_variance = states.astype(jnp.float32), None
            means.append(mean)
            variances.append(log_variance)
        if len(means) == 1:
            return means[0], variances[0]
        flat = [rearrange(x, "B P Z -> B 1 (P Z)") for x in means]
        mean = jnp.concatenate(flat, axis=-1)
        if variances[0] is None:
            return mean, None
        flat = [rearrange(x, "B P Z -> B 1 (P Z)") for x in variances]
        return mean, jnp.concatenate(flat, axis=-1)

    def encode(self, ids: list[Int[Array, "B S"]], ctx: Context) -> Float[Array, "B L Z"]:
        """Return the codes of texts, means if they are Gaussian."""
        # Rows of one length: the decoder fills all places, so all texts have the same number.
        places = [jnp.pad(x, ((0, 0), (0, self.max_length - x.shape[1]))) for x in ids]
        return self.posterior(self.encoded(jnp.concatenate(places), ctx), ctx)[0]

    def decode(
        self, z: Float[Array, "B L Z"], ctx: Context, encoded: Encoded | None = None
    ) -> tuple[Float[Array, "B N D"], list[Float[Array, "B S D"]]]:
        """Return the decoder's last states, and its states after each upsampling.

        Args:
            z: codes.
            ctx: context of the model.
            encoded: the encoder's states, for skips in training.
        """
        dtype, at = jnp.dtype(self.config.dtype), ctx.at("latents")
        inputs: list[Any] = [None] * len(self.lengths)
        start = 0
        for k, (count, dim) in self._sizes.items():
            part = z
            if len(self._sizes) > 1:
                part = z[:, 0, start : start + count * dim]
                part = rearrange(part, "B (P Z) -> B P Z", P=count)
            start += count * dim
            part = part.astype(dtype)
            inputs[int(k)] = self.latents[k].states(part, at.at(k)) if k in self.latents else part
        inner = inputs.pop()
        return self.decoder(
            inner,
            ctx.at("decoder"),
            shared=self.encoder.blocks,
            encoded=encoded,
            inputs=[*inputs, None],
        )

    def logits(self, states: Float[Array, "B N D"], ctx: Context) -> Float[Array, "B N V"]:
        """Return the scores of the vocabulary, float32; the head is the embedding."""
        return self.embeddings.tokens.attend(states, ctx.at("embeddings").at("tokens"))

    def generate(
        self,
        z: Float[Array, "B L Z"],
        ctx: Context,
        num_tokens: int = 0,
        *,
        sampling: Sampling | None = None,
        drop_ended: bool = False,
    ) -> Int[Array, "B N"]:
        """Return ids with EOS, then padding. All places are decoded at once.

        Args:
            z: codes.
            ctx: context of the model.
            num_tokens: ids from this one on are never generated; 0: all may be.
            sampling: the choice of each id, independent of the other places; beams do not apply.
            drop_ended: ignored, since there is no loop.
        """
        del drop_ended
        logits = self.logits(self.decode(z, ctx)[0], ctx)
        return self.choose(logits, ctx, num_tokens, sampling)

    def choose(
        self,
        logits: Float[Array, "B N V"],
        ctx: Context,
        num_tokens: int = 0,
        sampling: Sampling | None = None,
    ) -> Int[Array, "B N"]:
        """Return the ids of decoded rows (see `places.choose`)."""
        return places.choose(logits, ctx, num_tokens or self.vocab_size, sampling)

    def clean_code(self, z: Float[Array, "B L Z"], step: Int[Array, ""]) -> Float[Array, "B L Z"]:
        """Return the code itself: nothing is scaled."""
        return z

    def sigma(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return the standard deviation of the noise on codes in training."""
        return jnp.float32(self.options.noise)

    def details(
        self, encoded: Encoded, ctx: Context
    ) -> list[tuple[Float[Array, "B P D"], Float[Array, "B P D"], Float[Array, "B P"]]]:
        """Return predicted and real Haar details of each level, and where both tokens are real.

        Neither carries a gradient to the encoder: the separators learn E[d | p].
        """
        out = []
        for k, upsampler in enumerate(self.decoder.upsamplers):
            at = ctx.at("decoder").at("blocks").at(str(k + 1)).at("upsampler")
            row = encoded.blocks[k]
            pooled, detail = haar(jax.lax.stop_gradient(row.states))
            real = rearrange(row.mask, "B (P two) -> B P two", two=2).min(axis=-1)
            out.append((upsampler.detail(pooled, at), detail, real))
        return out
