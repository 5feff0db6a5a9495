"""Measures of codes alone: distance to N(0, I), spread, Gaussianity, information."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flaxae.losses import Kernel, kernel_matrix, mmd_null, squared_distances
from flaxae.measures.stats import (
    Interval,
    bootstrap,
    jackknife,
    p_value,
    percentile_interval,
    permuted_labels,
    resample_counts,
)

ACTIVE = 0.01  # least variance of an active unit's mean over texts (Burda et al. 2016, section 5)
LN2 = float(np.log(2))


def mmd_test(
    codes: Float[np.ndarray, "n d"],
    *,
    seed: int = 0,
    permutations: int = 500,
    draws: int = 500,
) -> dict[str, float]:
    """Test the MMD^2 of codes against an equal number of draws of N(0, I).

    Args:
        codes: one code per row.
        seed: seed of the draws of the prior, of the resamples and of the permutations.
        permutations: permutations of the null; p is at least 1 / (permutations + 1).
        draws: resamples of the interval; codes and prior are resampled separately. Pairs of a row
            with itself are excluded, as in the estimate.

    Returns:
        "value", "low" and "high" of the estimate and its interval, and the permutation's "p"; all
        are nan if there are fewer than two codes.
    """
    n, dim = codes.shape
    if n < 2:
        return dict.fromkeys(("value", "low", "high", "p"), float("nan"))
    rng = np.random.default_rng(
        (seed, 1)
    )  # independent of the streams that draw codes or their noise
    pool = jnp.asarray(np.concatenate([codes, rng.normal(size=(n, dim))]), jnp.float32)
    kernel = np.array(kernel_matrix(squared_distances(pool, pool), dim, Kernel.IMQ), np.float64)
    np.fill_diagonal(kernel, 0)
    first = np.repeat([1.0, 0.0], n)
    value = _mmd(kernel, first[None], 1 - first[None])[0]
    labels = permuted_labels(n, n, permutations, seed)
    nulls = _mmd(kernel, labels, 1 - labels)
    x, y = resample_counts(n, draws, seed + 1), resample_counts(n, draws, seed + 2)
    zeros = np.zeros_like(x)
    resampled = _mmd(kernel, np.concatenate([x, zeros], 1), np.concatenate([zeros, y], 1))
    found = percentile_interval(value, resampled)
    return {
        "value": value,
        "low": found.low,
        "high": found.high,
        "p": p_value(value, nulls),
    }


def _mmd(
    kernel: Float[np.ndarray, "m m"], x: Float[np.ndarray, "r m"], y: Float[np.ndarray, "r m"]
) -> Float[np.ndarray, " r"]:
    """Return the U-statistic for each of r weightings of the rows; the kernel's diagonal is 0."""
    kx, ky = x @ kernel, y @ kernel

    def within(w: np.ndarray, kw: np.ndarray) -> np.ndarray:
        pairs = w.sum(1) ** 2 - (w**2).sum(1)  # 0 if a resample repeats a single row
        return np.divide((w * kw).sum(1), pairs, out=np.full(len(w), np.nan), where=pairs > 0)

    return within(x, kx) + within(y, ky) - 2 * (x * ky).sum(1) / (x.sum(1) * y.sum(1))


def mmd_null_p95(n: int, dim: int, draws: int = 100) -> float:
    """Return the 95 % quantile of MMD^2 between two samples of N(0, I), as a reference.

    It is nan for samples of fewer than two points.
    """
    if n < 2:
        return float("nan")
    return float(np.percentile(mmd_null(jax.random.key(1), n, dim, draws=draws), 95))


def spectrum(codes: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    """Return the variances along the codes' principal axes, largest first; nan for one code."""
    if len(codes) < 2:
        return np.full(codes.shape[1], np.nan)
    covariance = np.cov(codes.T).reshape((codes.shape[1],) * 2)  # (d, d), also for d = 1
    return np.linalg.eigvalsh(covariance)[::-1].clip(0)


def isotropy(codes: Float[np.ndarray, "n d"]) -> dict[str, float]:
    """Measure how evenly codes fill their space.

    Returns:
        effective_rank: exp of the entropy of the normalised spectrum (Roy & Vetterli 2007).
        participation_ratio: (sum of variances)^2 / sum of their squares.
        mean_cosine: mean cosine similarity of all pairs of codes.
        All are nan if there are fewer than two codes.
    """
    if len(codes) < 2:
        names = ("effective_rank", "participation_ratio", "mean_cosine")
        return dict.fromkeys(names, float("nan"))
    variances = spectrum(codes)
    share = variances / max(variances.sum(), 1e-30)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum()
    unit = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-30)
    n = len(codes)
    cosine = (np.square(unit.sum(0)).sum() - np.square(unit).sum()) / (n * (n - 1))
    return {
        "effective_rank": float(np.exp(entropy)) if variances.sum() > 0 else 0.0,
        "participation_ratio": float(variances.sum() ** 2 / max(np.square(variances).sum(), 1e-30)),
        "mean_cosine": float(cosine),
    }


def principal_dimensions(states: Float[np.ndarray, "n d"]) -> dict[str, float]:
    """Count the dimensions in which states vary.

    Args:
        states: one state per row.

    Returns:
        components_90, components_99: principal axes that together have this percentage of the
            variance.
        participation_ratio: (sum of variances)^2 / sum of their squares.
        For states of one Gaussian that is isotropic in r dimensions all are near r. All are 0 for
        constant states, and nan for fewer than two.
    """
    names = ("components_90", "components_99", "participation_ratio")
    if len(states) < 2:
        return dict.fromkeys(names, float("nan"))
    variances = spectrum(np.asarray(states, np.float64))
    total = variances.sum()
    if total <= 0:
        return dict.fromkeys(names, 0.0)
    known = np.cumsum(variances) / total
    counts = [float(np.searchsorted(known, share - 1e-9) + 1) for share in (0.9, 0.99)]
    ratio = float(total**2 / np.square(variances).sum())
    return dict(zip(names, (*counts, ratio), strict=True))


def gaussianity(codes: Float[np.ndarray, "n d"]) -> dict[str, float]:
    """Measure how close each dimension is to a Gaussian, and how much the norm varies.

    Returns:
        skew, excess_kurtosis: root mean squares over the dimensions that vary.
        squared_norm_std: standard deviation of |z|^2 / d; it is (2 / d)^(1/2) for N(0, I).
        All are nan if there are fewer than two codes.
    """
    if len(codes) < 2:
        return dict.fromkeys(("skew", "excess_kurtosis", "squared_norm_std"), float("nan"))
    std = codes.std(0)
    alive = std > 1e-6 * max(std.max(), 1e-30)
    scaled = (codes[:, alive] - codes[:, alive].mean(0)) / std[alive]
    squared = np.square(codes).sum(1) / codes.shape[1]
    if not scaled.shape[1]:
        skew = kurtosis = np.nan
    else:
        skew = np.sqrt(np.mean(np.square((scaled**3).mean(0))))
        kurtosis = np.sqrt(np.mean(np.square((scaled**4).mean(0) - 3)))
    return {
        "skew": float(skew),
        "excess_kurtosis": float(kurtosis),
        "squared_norm_std": float(squared.std()),
    }


def squared_norm_over_dim(codes: Float[np.ndarray, "n d"]) -> Interval:
    """Return the mean of |z|^2 / d, which is 1 for N(0, I)."""
    return bootstrap(np.square(codes).sum(1) / codes.shape[1])


def shape_intervals(codes: Float[np.ndarray, "n d"], groups: int = 20) -> dict[str, list[float]]:
    """Return jackknife intervals [low, high] of `isotropy`, `gaussianity` and `active_units`."""

    def measures(rows: np.ndarray) -> dict[str, float]:
        return isotropy(rows) | gaussianity(rows) | {"active_units": active_units(rows)}

    found = jackknife(measures, codes, groups=groups)
    return {name: [x.low, x.high] for name, x in found.items()}


def active_units(means: Float[np.ndarray, "n d"]) -> float:
    """Count the dimensions whose posterior mean has a variance over texts above ACTIVE.

    The count is nan for fewer than two texts, whose variance is unknown.
    """
    if len(means) < 2:
        return float("nan")
    return int((means.var(0) > ACTIVE).sum())


def log_density(
    z: Float[np.ndarray, "n d"],
    means: Float[np.ndarray, "m d"],
    log_variances: Float[np.ndarray, "m d"],
) -> Float[np.ndarray, "n m"]:
    """Return log N(z_i; mean_j, variance_j) of all pairs, by matrix products."""
    z, means, log_variances = (np.asarray(x, np.float64) for x in (z, means, log_variances))
    weight = np.exp(-log_variances)
    squared = np.square(z) @ weight.T - 2 * z @ (means * weight).T
    constant = (np.square(means) * weight + log_variances + np.log(2 * np.pi)).sum(1)
    return -0.5 * (squared + constant)


def information(
    means: Float[np.ndarray, "n d"], log_variances: Float[np.ndarray, "n d"], seed: int = 0
) -> dict[str, Any]:
    """Estimate KL to the prior and mutual information of Gaussian posteriors, in nats.

    Args:
        means: means of n texts' posteriors.
        log_variances: log variances of the posteriors.
        seed: seed of the single draw from each posterior.

    Returns:
        kl, kl_per_dim: mean KL over texts, which is the rate.
        mutual_information: mean of log q(z|x) - log (1/n) sum_x' q(z|x') (Hoffman & Johnson 2016).
            It cannot exceed log n (`cap`): an estimate near the cap is only a lower bound.
        kl_to_prior: KL minus mutual information, the aggregated posterior's KL to the prior.
    """
    means, log_variances = (np.asarray(x, np.float64) for x in (means, log_variances))
    per_dim = 0.5 * (np.square(means) + np.exp(log_variances) - 1 - log_variances)
    rng = np.random.default_rng(seed)
    z = means + np.exp(0.5 * log_variances) * rng.normal(size=means.shape)
    density = log_density(z, means, log_variances)
    n = len(means)
    mixture = np.logaddexp.reduce(density, axis=1) - np.log(n)
    mutual = bootstrap(np.diag(density) - mixture)
    kl = bootstrap(per_dim.sum(1))
    return {
        "kl": kl.as_dict(),
        "kl_per_dim": per_dim.mean(0).tolist(),
        "mutual_information": mutual.as_dict() | {"cap": float(np.log(n))},
        "kl_to_prior": kl.value - mutual.value,
    }
