"""Equal dictionaries in other units: constant factors, decoder norms and thresholds folded in."""

import dataclasses

import numpy as np
from jaxtyping import Float

from flaxae.errors import require
from flaxae.sparse_autoencoder.modules import Activation, Normaliser, SparseAutoencoder
from flaxae.sparse_autoencoder.parameters import build, values


def fold_factor(
    sae: SparseAutoencoder, factor: float, factor_out: float | None = None
) -> SparseAutoencoder:
    """Return the dictionary of raw states that equals one of multiplied states.

    The encoder is multiplied, the decoder and its bias are divided. (The encoder's bias belongs to
    the latents and stays.) Latents and thresholds stay the same; those in units of the decoder's
    norms (`rescale_by_decoder_norm`) are divided by `factor_out`.

    Args:
        sae: a dictionary trained on factor * x.
        factor: the factor of its input.
        factor_out: the factor of a transcoder's target; None: that of the input.

    Returns:
        A dictionary whose output of x is the old one's output of factor * x, divided by factor_out.

    Raises:
        ConfigError: if the dictionary normalises each input: the factor then has no effect.
    """
    out = factor if factor_out is None else factor_out
    require(factor > 0 and out > 0, f"factors {factor} and {out} must be positive")
    require(
        sae.config.normaliser is Normaliser.NONE,
        f"the dictionary normalises each input ({sae.config.normaliser.value}): it has no factor",
    )
    require(sae.config.transcoder or out == factor, "only a transcoder has a factor of its target")
    arrays = values(sae)
    arrays["w_enc"] = arrays["w_enc"] * factor
    arrays["b_dec"] = arrays["b_dec"] / out
    arrays["w_dec"] = arrays["w_dec"] / out
    if sae.config.rescale_by_decoder_norm and "threshold" in arrays:
        # Latents are in units of the decoder's norms, which are now divided.
        arrays["threshold"] = arrays["threshold"] / out
    if sae.config.skip:
        arrays["w_skip"] = arrays["w_skip"] * (factor / out)
    return build(sae.config, arrays)


def fold_whitening(
    sae: SparseAutoencoder,
    mean: Float[np.ndarray, " I"],
    matrix: Float[np.ndarray, "I I"],
    inverse: Float[np.ndarray, "I I"],
) -> SparseAutoencoder:
    """Return the dictionary of raw states that equals one of whitened states.

    Args:
        sae: a dictionary trained on (x - mean) matrix.
        mean: what is subtracted from the states.
        matrix: the matrix that whitens them.
        inverse: its inverse.

    Returns:
        A dictionary whose output of x is y inverse + mean, where y is the old one's output of
        (x - mean) matrix. Norms of the decoder's rows, if they select latents, are folded first.

    Raises:
        ConfigError: if the dictionary normalises each input, or is a transcoder, whose output is
            another state.
    """
    require(
        sae.config.normaliser is Normaliser.NONE,
        f"the dictionary normalises each input ({sae.config.normaliser.value}): its input cannot "
        "be whitened by its weights",
    )
    require(not sae.config.transcoder, "a transcoder's output is not whitened like its input")
    if sae.config.rescale_by_decoder_norm:
        sae = fold_decoder_norms(sae)
    mean, matrix, inverse = (np.asarray(x, np.float64) for x in (mean, matrix, inverse))
    arrays = values(sae)
    w_enc = matrix @ arrays["w_enc"]
    if not sae.config.subtract_b_dec:  # otherwise the new b_dec subtracts the mean
        shift = mean @ w_enc
        arrays["b_enc"] = arrays["b_enc"] - shift
        if "b_mag" in arrays:
            arrays["b_mag"] = arrays["b_mag"] - shift * np.exp(arrays["r_mag"])
    arrays["w_enc"] = w_enc
    arrays["w_dec"] = arrays["w_dec"] @ inverse
    arrays["b_dec"] = arrays["b_dec"] @ inverse + mean
    return build(sae.config, arrays)


def fold_decoder_norms(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Return an equal dictionary whose decoder has rows of norm 1.

    Latents, thresholds and biases of the encoder are multiplied by the norms.

    Raises:
        ConfigError: if the selection of latents would change: top-k of latents that are not
            rescaled by the decoder's norms.
    """
    config = sae.config
    rescaled = config.rescale_by_decoder_norm
    chosen = (Activation.TOPK, Activation.BATCH_TOPK, Activation.GROUPMAX)
    require(
        rescaled or config.activation not in chosen,
        f"{config.activation.value} of this dictionary selects latents that are not rescaled by "
        "the decoder's norms: other latents would be selected after folding",
    )
    arrays = values(sae)
    norms = np.maximum(np.linalg.norm(arrays["w_dec"], axis=-1), 1e-30)
    arrays["w_dec"] = arrays["w_dec"] / norms[:, None]
    arrays["w_enc"] = arrays["w_enc"] * norms
    arrays["b_enc"] = arrays["b_enc"] * norms
    if "b_mag" in arrays:
        arrays["b_mag"] = arrays["b_mag"] * norms
    if "threshold" in arrays and not rescaled:
        arrays["threshold"] = arrays["threshold"] * norms
    return build(dataclasses.replace(config, rescale_by_decoder_norm=False), arrays)


def as_jump_relu(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Return the JumpReLU dictionary that equals a batch top-k one outside training."""
    if sae.config.rescale_by_decoder_norm:
        sae = fold_decoder_norms(sae)
    arrays = values(sae)
    arrays["threshold"] = np.full(sae.config.d_sae, arrays["threshold"], np.float32)
    return build(dataclasses.replace(sae.config, activation=Activation.JUMPRELU, k=0), arrays)
