"""Latents and outputs of trained models on given states, for probes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float

from flaxae.models.sae.per_layer import LayeredAutoencoder
from flaxae.sparse_autoencoder.api import SAE
from flaxae.task import Context


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Latents and outputs of states. Those of several layers are flattened.

    Attributes:
        latents: (N, F).
        output: (N, O).
        scale: norm of what a latent of 1 adds to the product of importance and output, (F,); None
            without importance.
        importance: factor of each feature of the output, (O,), or None.
    """

    latents: Float[np.ndarray, "N F"]
    output: Float[np.ndarray, "N O"]
    scale: Float[np.ndarray, " F"] | None = None
    importance: Float[np.ndarray, " O"] | None = None


def encode_dictionary(
    sae: SAE, x: Float[np.ndarray, "N I"], importance: Float[np.ndarray, " O"] | None = None
) -> Encoded:
    """Return latents and outputs of a dictionary of one layer.

    Args:
        sae: a dictionary of raw states.
        x: raw states.
        importance: factor of each feature of the output; None: nothing is weighted.
    """
    states, module = jnp.asarray(x), sae.module
    latents = sae.encode(states)
    output = np.asarray(sae.decode(latents, states))
    if importance is None:
        return Encoded(np.asarray(latents), output)
    rows: Any = np.asarray(module.w_dec[...])
    scale = np.linalg.norm(rows * importance, axis=1)
    if module.config.rescale_by_decoder_norm:  # latents are divided by the norms of their rows
        scale = scale / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
    return Encoded(np.asarray(latents), output, scale, importance)


def encode_layers(
    inner: LayeredAutoencoder,
    factor: float,
    x: Float[np.ndarray, "N L D"],
    importance: Float[np.ndarray, "L D"] | None = None,
) -> Encoded:
    """Return latents and outputs of an autoencoder of several layers.

    Args:
        inner: the autoencoder.
        factor: factor that raw states are multiplied by.
        x: raw states.
        importance: factor of each feature of each layer; None: nothing is weighted.
    """
    ctx = Context(jax.random.key(0), jnp.int32(0))
    states, ones = jnp.asarray(x * factor), jnp.ones(len(x), jnp.float32)
    found = inner(states, ctx, ones)
    latents = rearrange(np.asarray(found.latents), "N L F -> N (L F)")
    output = rearrange(np.asarray(found.output) / factor, "N L D -> N (L D)")
    if importance is None:
        return Encoded(latents, output)
    gain = importance
    if inner.norm is not None:  # outside training, the running deviation
        gain = importance * np.asarray(inner.norm.statistics(states, ones, ctx)[1])
    kernel: Any = np.asarray(inner.decoder.kernel[...])  # (L, F, D)
    scale = np.linalg.norm(kernel * gain[:, None], axis=-1)
    return Encoded(latents, output, scale.reshape(-1), importance.reshape(-1))
