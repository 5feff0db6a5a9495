"""From the encoder's states to the latent: each way reads real tokens only."""

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config import Section
from flaxae.errors import require
from flaxae.lm.t5.blocks import T5Config
from flaxae.nn.attention import Attention
from flaxae.nn.bias import padding_bias
from flaxae.nn.linear import Linear
from flaxae.nn.norm import RMSNorm
from flaxae.task import Context


class Bottleneck(enum.Enum):
    FLATTEN = "flatten"  # z = sum_t W_t h_t: a linear map for each position
    MEAN = "mean"  # z = W mean_t h_t: throws the order away, and learns ten times slower
    RESAMPLER = "resampler"  # learned queries attend to the states, one for each latent
    FIRST_N = "first_n"  # z = W [h_1 .. h_n]: the original's, which drops what comes later
    ATTENTION_POOL = "attention_pool"  # as RESAMPLER, each latent on a sphere of radius sqrt(dim)


# Hashable: a static part of the model's graph, as T5Config.
@dataclasses.dataclass(unsafe_hash=True)
class LatentConfig(Section):
    """The latent and what surrounds it."""

    bottleneck: Bottleneck = Bottleneck.FLATTEN
    dim: int = 256
    num_latents: int = 1  # of `dim` each; the MMD, the KL and priors see them as one vector
    gaussian: bool = False  # q(z|x) is a Gaussian; training decodes draws of it
    log_variance: float = -2.0  # where that Gaussian's log-variance starts
    first_n: int = 8  # positions that FIRST_N reads
    tanh: bool = False  # FIRST_N only: codes in (-1, 1), which can never match N(0, I)
    memory_tokens: int = 8  # 1 would make cross-attention a constant: softmax over one key
    injection: bool = True  # z -> one vector for each decoder position, added to its input
    embed_injection: bool = False  # z -> one vector, added to all decoder embeddings (OPTIMUS)
    kv_slot: bool = False  # z -> one more key and value in each layer's self-attention (OPTIMUS)
    cross_gate: bool = False  # what cross-attention adds is scaled by a learned number a layer
    positions: bool = True  # learned absolute positions on both sides
    noise_start: float = 0.0  # sigma of the Gaussian noise on z in training, at step 0
    noise_end: float = 0.0  # and from step noise_steps on, linear between
    noise_steps: int = 0
    scale_codes: bool = True  # decode clean codes at the norm that noise made the decoder expect
    queue: int = 0  # codes of earlier steps that the MMD also sees
    ignored: bool = False  # the decoder reads 1s for any code: the reference that codes must beat

    @property
    def size(self) -> int:
        """Of a whole code."""
        return self.num_latents * self.dim

    @property
    def sphere(self) -> bool:
        """Whether latents have a fixed norm."""
        return self.bottleneck is Bottleneck.ATTENTION_POOL

    def validate(self) -> None:
        for name in ("dim", "num_latents", "first_n", "memory_tokens"):
            value = getattr(self, name)
            require(value > 0, f"latent.{name}={value} must be positive")
        for name in ("noise_start", "noise_end", "noise_steps", "queue"):
            require(getattr(self, name) >= 0, f"latent.{name}={getattr(self, name)} is negative")
        first = self.bottleneck is Bottleneck.FIRST_N
        require(
            not self.tanh or (first and not self.gaussian),
            "latent.tanh is for deterministic codes of latent.bottleneck=first_n only",
        )
        require(
            not (self.gaussian and self.sphere),
            "latent.gaussian does not go with latent.bottleneck=attention_pool: a Gaussian is not "
            "on a sphere; use resampler",
        )


class Flatten(nnx.Module):
    """z = sum over real positions t of W_t h_t."""

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
        """All segments in one matmul; states are 0 at padding, and are padded to one length."""
        _, width, dim = self.kernel.shape
        length = max(x.shape[1] for x in states)  # of the longest segment: all after it is 0
        flat = jnp.concatenate([fit(x, length).reshape(-1, length * width) for x in states])
        kernel = self.kernel[...][:length].reshape(length * width, dim).astype(self.dtype)
        return jnp.matmul(flat, kernel, preferred_element_type=jnp.float32)


class Mean(nnx.Module):
    """z = W mean h + b, the mean over real positions."""

    def __init__(self, d_model: int, dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.linear = Linear(d_model, dim, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        states: list[Float[Array, "B S D"]],
        masks: list[Float[Array, "B S"]],
        ctx: Context,
    ) -> Float[Array, "B Z"]:
        counts = [mask.sum(1, keepdims=True) for mask in masks]
        means = [s.sum(1) / jnp.maximum(c, 1) for s, c in zip(states, counts, strict=True)]
        return self.linear(jnp.concatenate(means), ctx.at("linear"))


class FirstN(nnx.Module):
    """z = W [h_1 .. h_n] + b: the first positions' states as one vector, 0 past a text's end.

    The bottleneck of Fraser-Greenlee's Transformer-VAE; what stands after position n reaches z only
    as far as the encoder carried it to the front.
    """

    def __init__(self, n: int, d_model: int, dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.linear = Linear(n * d_model, dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.n = n

    def __call__(
        self, states: list[Float[Array, "B S D"]], masks: Any, ctx: Context
    ) -> Float[Array, "B Z"]:
        rows = [fit(x[:, : self.n], self.n).reshape(x.shape[0], -1) for x in states]
        return self.linear(jnp.concatenate(rows), ctx.at("linear"))


class Resampler(nnx.Module):
    """Learned queries cross-attend to the real positions; each answer becomes one latent.

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
        num, width = self.queries.shape
        queries = self.queries[...].astype(self.dtype)[None]
        rows = [x.shape[0] for x in states]
        x = jnp.broadcast_to(queries, (sum(rows), num, width)).reshape(-1, width)
        y = self.attention(
            x,
            ctx.at("attention"),
            segments=tuple((r, num) for r in rows),
            bias=[padding_bias(mask) for mask in masks],
            memory=jnp.concatenate([s.reshape(-1, width) for s in states]),
            memory_segments=tuple((s.shape[0], s.shape[1]) for s in states),
        )
        return self.linear(self.norm(y, ctx), ctx.at("linear")).reshape(sum(rows), -1)


def make(latent: LatentConfig, t5: T5Config, max_length: int, rngs: nnx.Rngs) -> nnx.Module:
    """The module of a config: (states, 0 at padding, of each length; masks; ctx) -> (B, out).

    `out` is the code's size, twice that where it is Gaussian.
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
    """Mean and log-variance (None: deterministic) of what a bottleneck gave, float32."""
    out = out.astype(jnp.float32).reshape(out.shape[0], latent.num_latents, -1)
    if latent.gaussian:
        mean, log_variance = jnp.split(out, 2, axis=-1)
        return mean, log_variance + latent.log_variance
    if latent.tanh:
        return jnp.tanh(out), None
    return (on_sphere(out) if latent.sphere else out), None


def on_sphere(z: Float[Array, "B L Z"]) -> Float[Array, "B L Z"]:
    """Each latent scaled to norm sqrt(Z).

    That is the unit sphere in the units of the rest: a draw of N(0, I) is almost on it, so priors,
    noise and the MMD keep their meaning.
    """
    squared = jnp.mean(jnp.square(z), axis=-1, keepdims=True)
    return z * jax.lax.rsqrt(squared + 1e-12)


def sampled(
    mean: Float[Array, "B L Z"], log_variance: Float[Array, "B L Z"] | None, ctx: Context
) -> Float[Array, "B L Z"]:
    """A draw of q(z|x) by reparameterisation (Kingma & Welling 2014); the mean if deterministic."""
    if log_variance is None:
        return mean
    noise = jax.random.normal(ctx.at("posterior").key, mean.shape, jnp.float32)
    return mean + jnp.exp(0.5 * log_variance) * noise


def fit(x: Float[Array, "B S D"], length: int) -> Float[Array, "B T D"]:
    """States padded with 0 to a length."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0)))
