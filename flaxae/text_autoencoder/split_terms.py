"""Loss terms that are not sums over texts, evaluated once over all texts of a split.

In training they are estimated from each micro-batch. A held-out split is small, and its last batch
may have a single text, for which an MMD is not defined: its codes are collected instead (see
`task.Rows`), so that the loss of a split does not depend on the batches.
"""

import math
from typing import Any

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Float

from flaxae.losses import Kernel, mmd
from flaxae.task import Rows, Sums
from flaxae.text_autoencoder.channel import Channel

BLOCK = 2048  # codes whose kernel values are in memory together
_MMD = jax.jit(mmd, static_argnums=2)


def noisy_codes(
    mean: Rows,
    log_variance: Rows | None,
    sigma: float,
    seed: int,
    channel: Channel = Channel.ADDITIVE,
    lowest: float | None = None,
) -> Float[np.ndarray, "n D"]:
    """Return the codes of a split with the noise of training.

    Args:
        mean: means of q(z|x), (n, L, Z), with rows that only pad batches.
        log_variance: logarithms of its variances; None: codes are deterministic.
        sigma: standard deviation of the noise on codes.
        seed: seed of the noise. The codes are sorted before it is added: the result does not depend
            on the order in which batches contain them.
        channel: the form of the noise.
        lowest: if given, each code has a sigma of its own, uniform from `lowest` to `sigma`.
    """
    real = np.asarray(mean.weight) > 0
    codes = rearrange(np.asarray(mean.values)[real], "n l z -> n (l z)")
    order = np.lexsort(codes.T[::-1])
    variance = np.full((len(codes), 1), sigma**2, np.float32)
    if lowest is not None:
        drawn = np.random.default_rng((seed, 2)).uniform(lowest, sigma, size=(len(codes), 1))
        variance[order] = np.square(drawn)
    if channel is Channel.PRESERVING:
        codes = codes * np.sqrt(1 - variance)
    variance = np.broadcast_to(variance, codes.shape)
    if log_variance is not None:
        values = rearrange(np.asarray(log_variance.values)[real], "n l z -> n (l z)")
        variance = variance + np.exp(values)
    noise = np.random.default_rng((seed, 0)).normal(size=codes.shape)
    return (codes[order] + np.sqrt(variance[order]) * noise).astype(np.float32)


def split_mmd(codes: Float[np.ndarray, "n D"], kernel: Kernel, seed: int) -> float:
    """Return the MMD^2 of a split's codes and N(0, I); nan if there are fewer than two.

    More than BLOCK codes are divided into parts of equal size, whose mean is an unbiased estimate
    as well.

    Args:
        codes: one code per text.
        kernel: the kernel.
        seed: seed of the draws of N(0, I).
    """
    if len(codes) < 2:
        return float("nan")
    draws = np.random.default_rng((seed, 1)).normal(size=codes.shape).astype(np.float32)
    parts = -(-len(codes) // BLOCK)
    pairs = zip(np.array_split(codes, parts), np.array_split(draws, parts), strict=True)
    values = [len(z) * float(_MMD(z, prior, kernel)) for z, prior in pairs]
    return sum(values) / len(codes)


def free_kl(mean: Rows, log_variance: Rows, free_bits: float) -> float:
    """Return the KL term of free bits in nats per text: sum_i max(mean KL_i, free_bits).

    Args:
        mean: means of q(z|x), (n, L, Z), with rows that only pad batches.
        log_variance: logarithms of its variances.
        free_bits: nats per dimension.
    """
    real = np.asarray(mean.weight) > 0
    if not real.any():
        return float("nan")
    z, logs = (np.asarray(x.values, np.float64)[real] for x in (mean, log_variance))
    by_dim = 0.5 * (np.square(z) + np.exp(logs) - 1 - logs).mean(0)
    return float(np.maximum(by_dim, free_bits).sum())


def add(metrics: dict[str, float], sums: Sums, options: Any, seed: int) -> dict[str, float]:
    """Add the terms to a split's metrics and to its loss.

    Args:
        metrics: the split's other metrics; "mmd_weighted" is the weight of the MMD.
        sums: sums of all batches, with the rows "codes" and, for Gaussian codes, "log_variances".
        options: the config of the task.
        seed: seed of the noise on codes and of the draws of N(0, I).

    Returns:
        The metrics. The MMD of fewer than two texts is nan, and does not count in the loss.
    """
    mean, log_variance = Rows(*sums["codes"]), None
    if "log_variances" in sums:
        log_variance = Rows(*sums["log_variances"])
    latent, sigma = options.latent, metrics["sigma"]
    lowest = min(latent.noise_low, sigma) if latent.reads_noise else None
    codes = noisy_codes(mean, log_variance, sigma, seed, latent.channel, lowest)
    found = split_mmd(codes, options.mmd_kernel, seed)
    out = metrics | {"mmd": found, "mmd_weighted": metrics["mmd_weighted"] * found}
    terms = [out["mmd_weighted"]]
    if options.kl_free_bits and log_variance is not None:
        tokens = float(sums["loss"][1]) / max(len(codes), 1)  # per text
        kl = free_kl(mean, log_variance, options.kl_free_bits)
        out["kl_weighted"] = out["kl_weight"] * kl / tokens if tokens else float("nan")
        terms.append(out["kl_weighted"])
    return out | {"loss": out["loss"] + sum(x for x in terms if math.isfinite(x))}
