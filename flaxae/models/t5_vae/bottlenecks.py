"""Bottlenecks: from the encoder's states at real tokens to the latent code."""

import dataclasses
import enum
import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config import Section
from flaxae.config.ranges import Count, NonNegative, Range, Whole
from flaxae.errors import require
from flaxae.lm.t5.blocks import T5Config
from flaxae.models.t5_vae.capacity import SMALLEST
from flaxae.nn.attention import Attention
from flaxae.nn.bias import padding_bias
from flaxae.nn.linear import Linear
from flaxae.nn.norm import RMSNorm
from flaxae.task import Context
from flaxae.text_autoencoder.channel import Channel, on_sphere


class Bottleneck(enum.Enum):
    """The map from states h_t to the code z."""

    FLATTEN = "flatten"  # z = sum_t W_t h_t: one linear map per position
    MEAN = "mean"  # z = W mean_t h_t: loses the order, and learns ten times slower
    RESAMPLER = "resampler"  # learned queries attend to the states, one query per latent
    FIRST_N = "first_n"  # z = W [h_1 .. h_n]: that of the original code, ignores later states
    ATTENTION_POOL = "attention_pool"  # RESAMPLER with each latent on a sphere of radius sqrt(dim)


MOST_BITS = math.log2(1 / SMALLEST)  # per number, by the controller
MOST_CONTROLLED = 8192  # numbers per code of which the controller keeps a covariance, 256 MiB
LogVariance = Annotated[float, Range(-50, 50, "[]")]  # its exponential is finite in float32


# Hashable, because it is a static part of the model's graph, like T5Config.
@dataclasses.dataclass(unsafe_hash=True)
class LatentConfig(Section):
    """The latent code, its bottleneck, and how the decoder reads it."""

    section: ClassVar[str] = "task.latent"

    bottleneck: Bottleneck = Bottleneck.FLATTEN
    dim: Count = 256
    num_latents: Count = 1  # latents per code; MMD, KL and priors see them as one vector
    gaussian: bool = False  # q(z|x) is a Gaussian; training decodes samples of it
    log_variance: LogVariance = -2.0  # initial log-variance of that Gaussian
    first_n: Count = 8  # positions that bottleneck=first_n reads
    tanh: bool = False  # first_n only: codes in (-1, 1), which can never match N(0, I)
    memory_tokens: Count = 8  # 1 would make cross-attention a constant: softmax over one key
    injection: bool = True  # z -> one vector per decoder position, added to its input
    embed_injection: bool = False  # z -> one vector, added to all decoder embeddings (OPTIMUS)
    kv_slot: bool = False  # z -> one more key and value in each layer's self-attention (OPTIMUS)
    cross_gate: bool = False  # one learned scale of the cross-attention per layer
    positions: bool = True  # learned absolute positions on both sides
    channel: Channel = Channel.ADDITIVE  # preserving: codes on a sphere, never scaled (see channel)
    noise_start: NonNegative = 0.0  # sigma of the Gaussian noise on z in training, at step 0
    noise_end: NonNegative = 0.0  # the same from step noise_steps on; linear in between
    noise_steps: Whole = 0
    # Bits per text that the channel shall carry: a controller moves the sigma that noise_end would
    # be otherwise (see `capacity`); 0: off.
    target_bits: NonNegative = 0.0
    # Each text has a sigma of its own in training, uniform from noise_low to the schedule's, and
    # the decoder reads it. Without noise it reads noise_low.
    reads_noise: bool = False
    noise_low: NonNegative = 0.0
    # With reads_noise and the preserving channel: the decoder reads sqrt(1 - sigma^2) times the
    # noisy code, the best linear estimate of the clean one, so that strong noise hardly enters it.
    reads_estimate: bool = False
    scale_codes: bool = True  # additive only: scale clean codes to the norm of noisy ones
    queue: Whole = 0  # number of codes of earlier steps that the MMD also reads
    ignored: bool = False  # the decoder reads 1s instead of codes: a lower bound for codes

    @property
    def size(self) -> int:
        """Numbers per code, all latents together."""
        return self.num_latents * self.dim

    @property
    def sphere(self) -> bool:
        """True if latents have a fixed norm."""
        return self.projected or self.channel is Channel.PRESERVING

    @property
    def projected(self) -> bool:
        """True if the decoder puts what it reads on the sphere."""
        return self.bottleneck is Bottleneck.ATTENTION_POOL

    def validate(self) -> None:
        """Check the fields, and that they fit each other."""
        first = self.bottleneck is Bottleneck.FIRST_N
        require(
            not self.tanh or (first and not self.gaussian),
            "task.latent.tanh needs deterministic codes of task.latent.bottleneck=first_n",
        )
        preserving = self.channel is Channel.PRESERVING
        require(
            not (self.gaussian and self.projected),
            "task.latent.gaussian needs another task.latent.bottleneck than attention_pool, whose "
            "codes are on a sphere: use resampler",
        )
        require(
            not (preserving and (self.gaussian or self.tanh)),
            "task.latent.channel=preserving needs codes on a sphere: without task.latent.gaussian "
            "and task.latent.tanh",
        )
        for name in ("noise_start", "noise_end", "noise_low"):
            sigma = getattr(self, name)
            require(
                not preserving or sigma < 1,
                f"task.latent.{name}={sigma}: task.latent.channel=preserving needs a sigma below "
                "1, where nothing of a code is left",
            )
        require(
            not self.target_bits or not (self.gaussian or self.noise_end),
            "task.latent.target_bits decides the noise: it needs task.latent.noise_end=0 and, as "
            "q(z|x) has noise of its own, task.latent.gaussian=False",
        )
        most = self.size * MOST_BITS
        require(
            self.target_bits <= most,
            f"task.latent.target_bits={self.target_bits:g}: {self.size} numbers carry at most "
            f"{most:.0f} bits, with a sigma of {SMALLEST}",
        )
        require(
            not self.target_bits or self.size <= MOST_CONTROLLED,
            f"task.latent.target_bits keeps the covariance of codes, {self.size} x {self.size} "
            f"numbers, and factorises it in each step: codes may have {MOST_CONTROLLED} numbers",
        )
        require(
            not self.reads_estimate or (self.reads_noise and preserving and not self.projected),
            "task.latent.reads_estimate needs task.latent.reads_noise and "
            "task.latent.channel=preserving, and another task.latent.bottleneck than "
            "attention_pool, which has one length for all codes",
        )
        highest = max(self.noise_start, self.noise_end)
        require(
            not self.reads_noise or self.target_bits > 0 or highest > 0,
            "task.latent.reads_noise without noise: set task.latent.noise_end or target_bits",
        )
        require(
            self.noise_low == 0
            or (self.reads_noise and (self.target_bits > 0 or self.noise_low <= highest)),
            f"task.latent.noise_low={self.noise_low} needs task.latent.reads_noise, and a "
            "task.latent.noise_start or noise_end that is not below it",
        )


class Flatten(nnx.Module):
    """The linear map z = sum_t W_t h_t over real positions t."""

    def __init__(
        self, max_length: int, d_model: int, dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        std = (max_length * d_model) ** -0.5
        shape = (max_length, d_model, dim)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))
        self.dtype = dtype

    def __call__(
        self, states: list[Float[Array, "B S D"]], masks: Any, ctx: Context
    ) -> Float[Array, "B Z"]:
        """Map all segments in one matmul; states are 0 at padding and padded to one length."""
        length = max(x.shape[1] for x in states)  # states after the longest segment are 0
        flat = jnp.concatenate([rearrange(fit(x, length), "b t d -> b (t d)") for x in states])
        kernel = rearrange(self.kernel[...][:length], "t d z -> (t d) z").astype(self.dtype)
        return jnp.matmul(flat, kernel, preferred_element_type=jnp.float32)


class Mean(nnx.Module):
    """The linear map z = W mean_t h_t + b of the mean over real positions."""

    def __init__(self, d_model: int, dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.linear = Linear(d_model, dim, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        states: list[Float[Array, "B S D"]],
        masks: list[Float[Array, "B S"]],
        ctx: Context,
    ) -> Float[Array, "B Z"]:
        """Map the mean state of each text."""
        counts = [mask.sum(1, keepdims=True) for mask in masks]
        means = [s.sum(1) / jnp.maximum(c, 1) for s, c in zip(states, counts, strict=True)]
        return self.linear(jnp.concatenate(means), ctx.at("linear"))


class FirstN(nnx.Module):
    """The linear map z = W [h_1 .. h_n] + b of the first n states, 0 after the end of a text.

    The bottleneck of Fraser-Greenlee's Transformer-VAE. Tokens after position n reach z only as far
    as the encoder moves them to the front.
    """

    def __init__(self, n: int, d_model: int, dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.linear = Linear(n * d_model, dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.n = n

    def __call__(
        self, states: list[Float[Array, "B S D"]], masks: Any, ctx: Context
    ) -> Float[Array, "B Z"]:
        """Map the first n states of each text."""
        rows = [rearrange(fit(x[:, : self.n], self.n), "b n d -> b (n d)") for x in states]
        return self.linear(jnp.concatenate(rows), ctx.at("linear"))


class Resampler(nnx.Module):
    """Learned queries that cross-attend to the real positions; each output becomes one latent.

    One layer of the resampler of Alayrac et al. 2022 (Flamingo), without its feed-forward part.
    """

    def __init__(self, num_latents: int, t5: T5Config, dim: int, *, rngs: nnx.Rngs):
        dtype, shape = jnp.dtype(t5.dtype), (num_latents, t5.d_model)
        self.queries = nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32))
        self.attention = Attention(t5.d_model, t5.num_heads, t5.d_kv, dtype=dtype, rngs=rngs)
        self.norm = RMSNorm(t5.d_model, dtype=dtype)
        self.linear = Linear(t5.d_model, dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.dtype = dtype

    def __call__(
        self,
        states: list[Float[Array, "B S D"]],
        masks: list[Float[Array, "B S"]],
        ctx: Context,
    ) -> Float[Array, "B LZ"]:
        """Let each text's queries attend to its states."""
        num, width = self.queries.shape
        queries = self.queries[...].astype(self.dtype)[None]
        rows = [x.shape[0] for x in states]
        x = rearrange(jnp.broadcast_to(queries, (sum(rows), num, width)), "b l d -> (b l) d")
        y = self.attention(
            x,
            ctx.at("attention"),
            segments=tuple((r, num) for r in rows),
            bias=[padding_bias(mask) for mask in masks],
            memory=jnp.concatenate([rearrange(s, "b t d -> (b t) d") for s in states]),
            memory_segments=tuple((s.shape[0], s.shape[1]) for s in states),
        )
        z = self.linear(self.norm(y, ctx), ctx.at("linear"))
        return rearrange(z, "(b l) z -> b (l z)", l=num)


def make(latent: LatentConfig, t5: T5Config, max_length: int, rngs: nnx.Rngs) -> nnx.Module:
    """Return the module of a config.

    Its call maps one array of states per length (0 at padding) with their masks to (B, out), where
    `out` is the size of a code, doubled if codes are Gaussian.

    Args:
        latent: the bottleneck's config.
        t5: the encoder's sizes.
        max_length: maximum number of tokens per text.
        rngs: source of the initialisation.
    """
    width, common = t5.d_model, {"dtype": jnp.dtype(t5.dtype), "rngs": rngs}
    heads = 1 + latent.gaussian
    if latent.bottleneck is Bottleneck.FLATTEN:
        return Flatten(max_length, width, heads * latent.size, **common)
    if latent.bottleneck is Bottleneck.MEAN:
        return Mean(width, heads * latent.size, **common)
    if latent.bottleneck is Bottleneck.FIRST_N:
        return FirstN(latent.first_n, width, heads * latent.size, **common)
    return Resampler(latent.num_latents, t5, heads * latent.dim, rngs=rngs)


def split(
    out: Float[Array, "B out"], latent: LatentConfig
) -> tuple[Float[Array, "B L Z"], Float[Array, "B L Z"] | None]:
    """Split a bottleneck's output into mean and log-variance (None if deterministic), float32."""
    out = rearrange(out.astype(jnp.float32), "b (l z) -> b l z", l=latent.num_latents)
    if latent.gaussian:
        mean, log_variance = jnp.split(out, 2, axis=-1)
        return mean, log_variance + latent.log_variance
    if latent.tanh:
        return jnp.tanh(out), None
    return (on_sphere(out) if latent.sphere else out), None


def sampled(
    mean: Float[Array, "B L Z"], log_variance: Float[Array, "B L Z"] | None, ctx: Context
) -> Float[Array, "B L Z"]:
    """Sample q(z|x) by reparameterisation (Kingma & Welling 2014); return a deterministic mean."""
    if log_variance is None:
        return mean
    noise = jax.random.normal(ctx.at("posterior").key, mean.shape, jnp.float32)
    return mean + jnp.exp(0.5 * log_variance) * noise


def fit(x: Float[Array, "B S D"], length: int) -> Float[Array, "B T D"]:
    """Pad states with 0 to a length."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0)))
