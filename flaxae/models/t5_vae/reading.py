"""The ways in which a T5-VAE's decoder reads a code, and the noise that the code has."""

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from flaxae.models.t5_vae.bottlenecks import LatentConfig
from flaxae.task import Context
from flaxae.text_autoencoder.channel import Channel, on_sphere

NOISE_FEATURES = 8  # cosines by which the decoder reads a sigma


def decoder_code(
    latent: LatentConfig, z: Float[Array, "B L Z"], sigma: Float[Array, "B"] | None = None
) -> Float[Array, "B L Z"]:
    """Return the decoder's input: codes, their estimates or projections, or constants.

    With `reads_estimate` the code is multiplied by sqrt(1 - sigma^2). If clean codes have mean 0
    and unit covariance, this is the linear estimate of the clean code with the smallest error.

    Args:
        latent: the code's config.
        z: received codes.
        sigma: the noise that the decoder reads; None: `latent.noise_low`.
    """
    if latent.ignored:
        return jnp.ones_like(z)  # not 0, because the memory's norm divides by its length
    if latent.reads_estimate:
        known = jnp.float32(latent.noise_low) if sigma is None else sigma[:, None, None]
        return jnp.sqrt(1 - jnp.square(known)) * z
    return on_sphere(z) if latent.projected else z


def memory(model: Any, z: Float[Array, "B L Z"], ctx: Context) -> Float[Array, "B M D"]:
    """Return the memory tokens that cross-attention reads."""
    tokens = model.memory(flat(z), ctx.at("memory"))
    tokens = rearrange(tokens, "b (m d) -> b m d", m=model.latent.memory_tokens)
    return model.memory_norm(tokens, ctx)


def input_bias(
    model: Any, z: Float[Array, "B L Z"], ctx: Context, sigma: Float[Array, "B"] | None
) -> Float[Array, "B T D"] | None:
    """Return the term of z and sigma in the decoder's embeddings.

    T is 1 if all positions are equal.
    """
    added = None
    if model.latent.injection:
        added = model.injection(flat(z), ctx.at("injection"))
        added = rearrange(added, "b (t d) -> b t d", t=model.max_length)
    if model.latent.embed_injection:
        one = model.embed_injection(flat(z), ctx.at("embed_injection"))[:, None]
        added = one if added is None else added + one
    if model.reads_noise:
        if sigma is None:
            sigma = jnp.full(z.shape[0], model.latent.noise_low, jnp.float32)
        features = noise_features(sigma, model.channel)
        one = model.noise_input(features, ctx.at("noise_input"))[:, None]
        added = one if added is None else added + one
    return added


def layer_inputs(model: Any, z: Float[Array, "B L Z"], ctx: Context) -> dict[str, Array] | None:
    """Return the decoder layers' further inputs (see `Decoder`)."""
    extras: dict[str, Array] = {}
    if model.latent.kv_slot:
        slot = model.kv_slot(flat(z), ctx.at("kv_slot"))
        layers = model.t5.config.num_decoder_layers
        extras["slot"] = rearrange(slot, "b (layer k) -> layer b k", layer=layers)
    if model.latent.cross_gate:
        extras["gate"] = model.cross_gate[...]
    return extras or None


def noise_features(sigma: Float[Array, "B"], channel: Channel) -> Float[Array, "B F"]:
    """Return cosines of the angle whose tangent is noise over signal, F of them."""
    angle = jnp.arcsin(sigma) if channel is Channel.PRESERVING else jnp.arctan(sigma)
    return jnp.cos(2 * angle[:, None] * jnp.arange(NOISE_FEATURES, dtype=jnp.float32)[None])


def flat(z: Float[Array, "B L Z"]) -> Float[Array, "B LZ"]:
    """Return all latents of a row as one vector."""
    return rearrange(z, "b l z -> b (l z)")
