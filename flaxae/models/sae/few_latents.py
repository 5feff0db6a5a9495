"""Losses of top-k dictionaries that compute with the chosen latents alone, on CPUs.

Only the encoder's product is that of all latents. Its gradient and the decoder's products are those
of the latents that are not 0.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flaxae.nn.linear import align
from flaxae.sparse_autoencoder.chosen_rows import Chosen, chosen_entries, weighted_rows
from flaxae.sparse_autoencoder.modules import Activation, SparseAutoencoder
from flaxae.sparse_autoencoder.top_k import kth_largest
from flaxae.task import Context

WIDTH, ROOM = 32, 4  # entries per step of a loop; batch top-k: room for this many times k per row


class Selection(NamedTuple):
    """The latents that a batch has chosen.

    Attributes:
        z: their pre-activations, without gradient; (B, K).
        kept: whether each is one of the chosen, (B, K).
        chosen: their numbers.
        fits: False if a row may have chosen more than K.
    """

    z: Float[Array, "B K"]
    kept: Bool[Array, "B K"]
    chosen: Chosen
    fits: Bool[Array, ""]


class FewLatents(NamedTuple):
    """Latents of which few are not 0, by their values and numbers."""

    values: Float[Array, "B K"]
    chosen: Chosen


def supported(sae: SparseAutoencoder, ctx: Context) -> bool:
    """Return True if a dictionary's loss can be computed from the chosen latents alone.

    This is for one device and few active latents. (Devices that share a dictionary would send
    each other the rows.)
    """
    config = sae.config
    single = math.prod(jax.sharding.get_abstract_mesh().shape.values()) == 1
    kind = config.activation
    selects = kind is Activation.TOPK or (kind is Activation.BATCH_TOPK and ctx.train)
    few = ROOM * config.k <= config.d_sae // 4
    return single and selects and few and config.dtype == "float32" and ctx.taps.quiet


def select(
    sae: SparseAutoencoder, x: Float[Array, "B I"], weights: Float[Array, "B"], ctx: Context
) -> Selection:
    """Return the latents that a batch chooses; the smallest of equal ones may be left out.

    Args:
        sae: the dictionary.
        x: states.
        weights: 0 for rows that only pad the batch.
        ctx: the context, whose k may be traced.
    """
    z = jax.lax.stop_gradient(sae.pre_activations(x, ctx))
    k: Any = ctx.hparams.get("k", sae.config.k)
    if sae.config.activation is Activation.TOPK:
        size = int(sae.config.k)
        top, indices = jax.lax.top_k(z, size)
        count = jnp.asarray(k).astype(jnp.int32)
        kept = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32)[None] < count, top.shape)
        counts = jnp.full(len(x), count)
        return Selection(top, kept, Chosen(indices, counts), jnp.bool_(True))
    size = -int(-ROOM * sae.config.k // WIDTH) * WIDTH
    top, indices = jax.lax.top_k(z, min(size, z.shape[-1]))
    real = weights > 0
    acts = jnp.where(real[:, None], jax.nn.relu(top), 0)
    rows = real.astype(jnp.float32).sum()
    count = jnp.floor(jnp.asarray(k, jnp.float32) * rows + 1e-3).astype(jnp.int32)
    kept = (acts > 0) & (acts >= kth_largest(acts, count)) & (count > 0)
    counts = kept.astype(jnp.int32).sum(-1, dtype=jnp.int32)
    return Selection(top, kept, Chosen(indices, counts), ~jnp.any(kept[:, -1]))


def encode(
    sae: SparseAutoencoder, x: Float[Array, "B I"], selection: Selection
) -> tuple[FewLatents, Float[Array, "B O"]]:
    """Return the latents of a selection and the output.

    Args:
        sae: the dictionary.
        x: states.
        selection: the latents that it chooses.
    """
    z, kept, chosen, _ = selection
    config, inputs = sae.config, sae.normalised(x)
    bias = sae.b_dec[...] if config.subtract_b_dec else jnp.zeros(config.d_in)
    own, norms = sae.b_enc[...][chosen.indices], jnp.ones_like(z)
    if config.rescale_by_decoder_norm:
        norms = sae.decoder_norms()[chosen.indices]
    values = jax.lax.stop_gradient(z / norms - own)
    width = WIDTH if z.shape[1] % WIDTH == 0 else z.shape[1]
    product: Any = chosen_entries(inputs, bias, sae.w_enc[...], values, chosen, width)
    unscaled = jnp.where(kept, jax.nn.relu(product + own), 0)
    output: Any = weighted_rows(unscaled, chosen, sae.w_dec[...], width)
    output = output + align(sae.b_dec[...], output)
    if sae.w_skip is not None:
        output = output + x @ sae.w_skip[...]
    return FewLatents(unscaled * norms, chosen), output
