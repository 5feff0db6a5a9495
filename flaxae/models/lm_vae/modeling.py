"""LM-VAE: a frozen language model that encodes a text, and decodes it from memory tokens.

tokens -> frozen language model -> pooled states of middle layers -> z on a sphere
z -> memory tokens before the text -> the same language model with a LoRA -> logits

As in OPTIMUS (Li et al. 2020) and LangVAE (Carvalho et al. 2025), but one model does both.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae import decoding
from flaxae.config import Section
from flaxae.config.ranges import Count, NonNegative, Whole, Wholes
from flaxae.data.tokenizer import EOS, PAD
from flaxae.errors import require
from flaxae.lm.causal import CausalLM
from flaxae.models.lm_vae.pooling import pooled_states
from flaxae.models.lm_vae.tokens import SHIFT, from_language_model, to_language_model
from flaxae.nn.linear import Linear
from flaxae.task import Context
from flaxae.text_autoencoder.channel import Channel, on_sphere, scheduled_sigma, transmit

CACHE_AXES = {"kv": 1, "memory": 0}  # the axis of the rows in each part of the cache


# Hashable: it is a static part of the model's graph, and does not change during a run.
@dataclasses.dataclass(unsafe_hash=True)
class LatentConfig(Section):
    """The code, how it is read from states, and how the decoder reads it."""

    section: ClassVar[str] = "task.latent"

    dim: Count = 256
    layers: Wholes = (12,)  # layers whose states are pooled; later ones are not run
    # Coefficients of the cosine transform of states over positions (Almarwani et al. 2019). The
    # first is their mean; the others keep the order of the words.
    terms: Count = 4
    hidden: Whole = 0  # width of a hidden layer between pooled states and code; 0: linear
    memory_tokens: Count = 8
    noise_start: NonNegative = 0.1  # sigma of the channel at step 0
    noise_end: NonNegative = 0.3  # the same from step noise_steps on; linear in between
    noise_steps: Whole = 0

    def validate(self) -> None:
        """Check the fields."""
        for name in ("noise_start", "noise_end"):
            sigma = getattr(self, name)
            require(sigma < 1, f"task.latent.{name}={sigma} must be below 1: codes are on a sphere")
        require(
            bool(self.layers) and len(set(self.layers)) == len(self.layers),
            f"task.latent.layers={self.layers}: name different layers, at least one",
        )


class LMVAEModel(nnx.Module):
    """An autoencoder of texts of up to `max_length` tokens, EOS included."""

    num_latents = 1
    channel = Channel.PRESERVING

    def __init__(
        self,
        lm: CausalLM,
        latent: LatentConfig,
        max_length: int,
        *,
        begin: int,
        end: int,
        rngs: nnx.Rngs,
    ):
        """Draw the maps from states to codes and from codes to memory tokens.

        Args:
            lm: the language model with its adapter.
            latent: the code.
            max_length: maximum number of tokens per text, EOS included.
            begin: the language model's id before a text.
            end: the language model's id that ends a text.
            rngs: source of the initialisation, by `rngs.params()`.
        """
        self.lm, self.latent, self.max_length = lm, latent, max_length
        self.begin, self.end = begin, end
        self.centre = nnx.Param(jnp.zeros(self.num_features, jnp.float32))
        self.spread = nnx.Param(jnp.ones(self.num_features, jnp.float32))
        width = latent.hidden or latent.dim
        self.read = Linear(self.num_features, width, use_bias=True, rngs=rngs)
        if latent.hidden:
            self.read_hidden = Linear(latent.hidden, latent.dim, use_bias=True, rngs=rngs)
        size = latent.memory_tokens * lm.config.d_model
        self.write = Linear(latent.dim, size, use_bias=True, rngs=rngs)

    @property
    def num_features(self) -> int:
        """Numbers per text that `pooled` returns."""
        return len(self.latent.layers) * self.latent.terms * self.lm.config.d_model

    @property
    def dim(self) -> int:
        """Numbers per code."""
        return self.latent.dim

    @property
    def vocab_size(self) -> int:
        """Number of ids: the language model's, and three special ones."""
        return self.lm.config.vocab_size + SHIFT

    def sigma(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return the standard deviation of the channel's noise at a step."""
        config = self.latent
        return scheduled_sigma(config.noise_start, config.noise_end, config.noise_steps, step)

    def clean_code(self, z: Float[Array, "B 1 Z"], step: Int[Array, ""]) -> Float[Array, "B 1 Z"]:
        """Return the code itself: the channel keeps the norm of codes."""
        return z

    def received(
        self, z: Float[Array, "B 1 Z"], sigma: Float[Array, ""], ctx: Context
    ) -> Float[Array, "B 1 Z"]:
        """Return codes with the noise of the channel."""
        noise = jax.random.normal(ctx.at("noise").key, z.shape, jnp.float32)
        return transmit(z, sigma, self.channel, noise)

    def encode(self, ids: list[Int[Array, "B S"]], ctx: Context) -> Float[Array, "B 1 Z"]:
        """Return clean codes of texts, float32; they do not depend on the padding.

        Args:
            ids: one array per length; each row is a text with EOS, padded with PAD.
            ctx: the step's context.
        """
        return self.code(jnp.concatenate([self.pooled(part, ctx) for part in ids]), ctx)

    def pooled(self, ids: Int[Array, "B S"], ctx: Context) -> Float[Array, "B F"]:
        """Return the pooled states of texts in the frozen language model, without its adapter.

        Args:
            ids: texts with EOS, padded with PAD.
            ctx: the step's context.
        """
        latent, ends = self.latent, (self.begin, self.end)
        return pooled_states(self.lm, latent.layers, latent.terms, ids, ctx, ends)

    def code(self, pooled: Float[Array, "B F"], ctx: Context) -> Float[Array, "B 1 Z"]:
        """Return clean codes of pooled states, on the sphere of radius sqrt(Z)."""
        centre, spread = self.centre[...][None], self.spread[...][None]  # (1, F)
        x = (pooled.astype(jnp.float32) - centre) * spread
        x = self.read(x, ctx.at("read"))
        if self.latent.hidden:
            x = self.read_hidden(jax.nn.gelu(x), ctx.at("read_hidden"))
        return ctx.tap("z", on_sphere(x.astype(jnp.float32)[:, None]))

    def memory(self, z: Float[Array, "B 1 Z"], ctx: Context) -> Float[Array, "B M D"]:
        """Return the vectors that the decoder reads before the text.

        Each is the embedding of the id that begins texts plus a linear map of z, of that
        embedding's size: the map 0 leaves a language model that reads M such ids.
        """
        begin = self.lm.embed(jnp.full((1, 1), self.begin, jnp.int32), ctx.at("lm"))  # (1, 1, D)
        size = jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.square(begin.astype(jnp.float32)))))
        written = self.write(z[:, 0], ctx.at("write"))
        written = rearrange(written, "b (m d) -> b m d", m=self.latent.memory_tokens)
        return begin + (size * written).astype(begin.dtype)

    def decode(
        self,
        z: Float[Array, "B 1 Z"],
        ids: Int[Array, "B S"],
        ctx: Context,
        inputs: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B S D"]:
        """Return the states from which each token of given texts is predicted (teacher forcing).

        Args:
            z: received codes.
            ids: the texts, with EOS, padded with PAD.
            ctx: the step's context.
            inputs: the ids that the decoder reads; None: the texts.
        """
        at, tokens = ctx.at("lm"), self.latent.memory_tokens
        read_ids = to_language_model(ids if inputs is None else inputs, self.end)[:, :-1]
        x = jnp.concatenate([self.memory(z, ctx), self.lm.embed(read_ids, at)], axis=1)
        rows = jnp.zeros(x.shape[:2], jnp.int32)
        states = self.lm.states(rows, at, embedded=x)
        return states[:, tokens - 1 :]  # (B, S, D)

    def generate(
        self,
        z: Float[Array, "B 1 Z"],
        ctx: Context,
        num_tokens: int = 0,
        *,
        sampling: decoding.Sampling | None = None,
        drop_ended: bool = False,
    ) -> Int[Array, "B T"]:
        """Decode codes freely, with a KV cache, in one loop that ends when all rows have ended.

        Args:
            z: codes.
            ctx: the step's context.
            num_tokens: ids from this one on are never generated; 0: all may be.
            sampling: how ids are chosen; None: greedily.
            drop_ended: see `decoding.generate`.

        Returns:
            Ids with EOS, padded with PAD.
        """
        step, cache = self.decode_step(z, ctx, num_tokens)
        return decoding.generate(
            step,
            cache,
            jnp.full(z.shape[0], PAD, jnp.int32),
            self.max_length,
            sampling or decoding.Sampling(),
            ctx.at("sample").key,
            eos=EOS,
            pad=PAD,
            cache_axes=CACHE_AXES,
            drop_ended=drop_ended,
        )

    def decode_step(
        self, z: Float[Array, "B 1 Z"], ctx: Context, num_tokens: int = 0
    ) -> tuple[decoding.StepFn, dict[str, Any]]:
        """Read the memory tokens into a cache, all but the last, which the first step reads.

        Args:
            z: codes.
            ctx: the step's context.
            num_tokens: see `generate`.

        Returns:
            The step function of `decoding`, and the cache {"kv", "memory"}.
        """
        at, before = ctx.at("lm"), self.latent.memory_tokens - 1
        memory = self.memory(z, ctx)
        rows, length = z.shape[0], before + self.max_length
        kv = self.lm.init_cache(rows, length)

        def cached(x: Array, kv: Any, index: Array | int) -> tuple[Array, Any]:
            count = x.shape[1]
            places = index + jnp.arange(count, dtype=jnp.int32)[None]
            return self.lm.cached_states(
                jnp.zeros((x.shape[0], count), jnp.int32),
                at,
                kv,
                index,
                positions=jnp.broadcast_to(places, (x.shape[0], count)),
                keys=jnp.ones((x.shape[0], length), jnp.int32),
                embedded=x,
            )

        if before:
            _, kv = cached(memory[:, :before], kv, 0)

        def step(last: Array, cache: dict[str, Any], index: Array) -> tuple[Array, dict[str, Any]]:
            x = self.lm.embed(to_language_model(last, self.end)[:, None], at)  # (B, 1, D)
            x = jnp.where(index == 0, cache["memory"], x)
            states, kv = cached(x, cache["kv"], before + index)
            scores = from_language_model(self.lm.logits(states[:, 0], at), self.end)
            masked = decoding.mask_unused(scores, num_tokens or scores.shape[-1])
            return masked, {**cache, "kv": kv}

        return step, {"kv": kv, "memory": memory[:, before:]}
