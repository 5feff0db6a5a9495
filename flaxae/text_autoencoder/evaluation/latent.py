"""The distribution of codes: distance to N(0, I), shape, and the information that they carry."""

from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float

from flaxae.text_autoencoder import latent_measures
from flaxae.text_autoencoder.channel import Channel
from flaxae.text_autoencoder.channel import bits as channel_bits
from flaxae.text_autoencoder.samples import too_few

STOCHASTIC_ONLY = "n/a: the encoder is deterministic"


def study(
    codes: Float[np.ndarray, "B L Z"],
    log_variances: Float[np.ndarray, "B L Z"] | None,
    *,
    sigma: float,
    tokens_per_line: float,
    most: int,
    channel: Channel = Channel.ADDITIVE,
    lowest_sigma: float | None = None,
) -> dict[str, Any] | str:
    """Measure codes alone, without decoding them.

    Args:
        codes: clean codes of held-out lines.
        log_variances: logarithms of their posteriors' variances; None: codes are deterministic.
        sigma: standard deviation of the noise on codes in training.
        tokens_per_line: mean number of the lines' tokens, EOS included.
        most: number of codes for MMD^2.
        channel: how the noise enters codes.
        lowest_sigma: if it is below `sigma`, each line has a noise of its own in training, uniform
            between both. The bits are those at `sigma`, and `bits_at_lowest` is reported too.

    Returns:
        mmd and mmd_with_noise with intervals, the null's 95 % quantile and permutation p; bits,
        isotropy, Gaussianity and spectrum; KL and mutual information, or the reason why there are
        none. The noise is that of training: the codes' noise, or draws of their posteriors.
    """
    if missing := too_few(len(codes), 2, "the distribution of codes"):
        return missing
    codes = rearrange(codes, "b l z -> b (l z)").astype(np.float64)
    n, size = min(len(codes), most), codes.shape[1]
    noise = np.random.default_rng(1).normal(size=codes.shape)
    if log_variances is not None:
        log_variances = rearrange(log_variances, "b l z -> b (l z)").astype(np.float64)
    lowest = sigma if lowest_sigma is None else lowest_sigma
    sigmas: Any = sigma  # of each line, as in training
    if lowest < sigma:
        sigmas = np.random.default_rng(2).uniform(lowest, sigma, size=(len(codes), 1))
    std = sigmas if log_variances is None else np.exp(0.5 * log_variances)
    clean = latent_measures.mmd_test(codes[:n])
    kept = np.sqrt(1 - np.square(sigmas)) if channel is Channel.PRESERVING else 1.0
    sampled = latent_measures.mmd_test((kept * codes + std * noise)[:n])
    null = latent_measures.mmd_null_p95(n, size)
    variances = latent_measures.spectrum(codes)
    squared = latent_measures.squared_norm_over_dim(codes)
    out: dict[str, Any] = {
        "n": n,
        "sigma": sigma,
        "lowest_sigma": lowest,
        "channel": channel.value,
        "mmd": clean["value"],
        "mmd_with_noise": sampled["value"],
        "null_p95": null,
        "mmd_over_null": clean["value"] / null,
        "mmd_with_noise_over_null": sampled["value"] / null,
        "mmd_p": clean["p"],
        "mmd_with_noise_p": sampled["p"],
        "std_mean": float(codes.std(0).mean()) if len(codes) > 1 else float("nan"),
        "squared_norm_over_dim": squared.value,
        "intervals": {
            "mmd": [clean["low"], clean["high"]],
            "mmd_with_noise": [sampled["low"], sampled["high"]],
            "squared_norm_over_dim": [squared.low, squared.high],
            **latent_measures.shape_intervals(codes),
        },
        "active_units": latent_measures.active_units(codes),
        "size": size,
        "isotropy": latent_measures.isotropy(codes),
        "gaussianity": latent_measures.gaussianity(codes),
        # The same measures of an equal number of draws of N(0, I) show the effect of few rows.
        "isotropy_of_normal": latent_measures.isotropy(noise),
        "gaussianity_of_normal": latent_measures.gaussianity(noise),
        "spectrum": variances.tolist(),
        "tokens_per_line": tokens_per_line,
    }
    if lowest < sigma and lowest > 0:
        meaning = f"capacity of the {channel.value} Gaussian channel at sigma {lowest:.3g}"
        bits = channel_bits(variances, lowest, channel)
        out["bits_at_lowest"] = _bits(bits, tokens_per_line, meaning)
    return out | _information(codes, log_variances, sigma, channel, variances, tokens_per_line)


def _information(
    codes: Float[np.ndarray, "B LZ"],
    log_variances: Float[np.ndarray, "B LZ"] | None,
    sigma: float,
    channel: Channel,
    spectrum: Float[np.ndarray, " LZ"],
    tokens: float,
) -> dict[str, Any]:
    """Return KL and mutual information of Gaussian posteriors, and the bits that codes carry."""
    if log_variances is not None:
        found = latent_measures.information(codes, log_variances)
        rate = found["kl"]["value"] / latent_measures.LN2
        return {"information": found, "bits": _bits(rate, tokens, "mean KL to the prior, the rate")}
    bits: Any = "n/a: without noise, the capacity of a real number has no bound"
    if sigma:
        meaning = f"capacity of the {channel.value} Gaussian channel at sigma {sigma:.3g}"
        bits = _bits(channel_bits(spectrum, sigma, channel), tokens, meaning)
    return {"information": STOCHASTIC_ONLY, "bits": bits}


def _bits(bits: float, tokens: float, estimate: str) -> dict[str, Any]:
    """Return bits per line and per token, with the name of the estimate."""
    return {"per_line": bits, "per_token": bits / tokens, "estimate": estimate}
