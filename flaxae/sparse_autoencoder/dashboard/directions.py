"""A feature's effect on the next token, and its nearest features, from the decoder alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.sparse_autoencoder.modules import SparseAutoencoder
from flaxae.task import Context

CHUNK = 256  # features per call
RESIDUAL = ("resid_in", "resid_out", "attn_out", "mlp_out")  # hooks that add to the residual stream


def logit_tokens(
    model: Any, sae: SparseAutoencoder, features: Int[np.ndarray, "M"], count: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return the tokens that features make more and less likely by the direct path.

    This is a decoder row times the scale of the final norm and the unembedding; the division by the
    norm of the residual stream, which is the same for all tokens, is left out. A LayerNorm's
    subtraction of the mean is included.

    Args:
        model: a language model.
        sae: a dictionary that writes to its residual stream.
        features: numbers of features.
        count: tokens per feature and side.

    Returns:
        (ids, values) of the largest, descending, and of the smallest, ascending, each (M, count).
    """
    scale, centred = model.final_norm.scale[...], hasattr(model.final_norm, "bias")
    count = min(count, model.config.vocab_size)
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state: Any, rows: Array) -> tuple[Any, Any]:
        own: Any = nnx.merge(graphdef, state)
        ctx = Context(jax.random.key(0), jnp.int32(0))
        x = rows - rows.mean(-1, keepdims=True) if centred else rows
        x = (x * scale.astype(jnp.float32)[None]).astype(jnp.dtype(own.config.dtype))
        logits = own.logits(x, ctx) - own.logits(jnp.zeros_like(x[:1]), ctx)  # without a bias
        high, low = jax.lax.top_k(logits, count), jax.lax.top_k(-logits, count)
        return (high[1], high[0]), (low[1], -low[0])

    parts = [jax.device_get(run(state, rows)) for rows in _chunks(_rows(sae, features))]
    return tuple(  # pyright: ignore
        tuple(np.concatenate([part[side][i] for part in parts])[: len(features)] for i in (0, 1))
        for side in (0, 1)
    )


def neighbours(
    sae: SparseAutoencoder, features: Int[np.ndarray, "M"], count: int
) -> tuple[Int[np.ndarray, "M N"], Float[np.ndarray, "M N"]]:
    """Return the features, among those given, with the most similar decoder rows.

    Args:
        sae: a dictionary.
        features: numbers of features.
        count: neighbours per feature.

    Returns:
        Their numbers and cosines, in descending order.
    """
    rows = _rows(sae, features)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30)
    count = min(count, len(features) - 1)

    @jax.jit
    def run(every: Array, some: Array, own: Array) -> tuple[Array, Array]:
        cosines = some @ every.T
        cosines = cosines.at[jnp.arange(len(some)), own].set(-2)
        return jax.lax.top_k(cosines, count)

    if count < 1:
        empty = np.zeros((len(features), 0))
        return empty.astype(np.int64), empty.astype(np.float32)
    places = np.arange(-(-len(features) // CHUNK) * CHUNK).reshape(-1, CHUNK) % len(features)
    every = jnp.asarray(rows)
    parts = [jax.device_get(run(every, rows[at], at)) for at in places]
    values, found = (np.concatenate([part[i] for part in parts])[: len(rows)] for i in (0, 1))
    return features[found], values


def _rows(sae: SparseAutoencoder, features: Int[np.ndarray, "M"]) -> Float[np.ndarray, "M O"]:
    """Return what one unit of each latent adds to the output."""
    rows = np.asarray(sae.w_dec[...], np.float32)[features]
    if sae.config.rescale_by_decoder_norm:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30)
    return rows


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    """Return parts of one size; the last one is filled with zeros."""
    padded = np.pad(rows, ((0, -len(rows) % CHUNK), (0, 0)))
    return [padded[i : i + CHUNK] for i in range(0, len(padded), CHUNK)]
