"""Statistics that evaluations share: intervals, paired differences, AUROC, permutation tests.

Everything is seeded numpy. The bootstrap is vectorised: a resample of rows is a vector of counts,
and a statistic of sums (a mean, a ratio, a perplexity, BLEU) needs only those counts times the
rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

DRAWS, LEVEL = 1000, 0.95
_BLOCK_SIZE = 2**24  # numbers in one block of counts: 128 MB


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return value, low and high by name, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        ends = (
            f" [{self.low:.3f}, {self.high:.3f}]"
            if np.isfinite([self.low, self.high]).all()
            else ""
        )
        return f"{self.value:.3f}{ends}"


def finite(tree: Any) -> Any:
    """Replace numbers that are not finite, which JSON lacks, by None in a tree."""
    if isinstance(tree, dict):
        return {name: finite(x) for name, x in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [finite(x) for x in tree]
    if tree is None or isinstance(tree, (bool, int, str)):
        return tree
    return float(tree) if np.isfinite(tree) else None


def ratio(sums: Float[np.ndarray, "... k"]) -> Float[np.ndarray, "..."]:
    """Return the first sum over the second: the weighted mean if rows are (value, weight)."""
    return np.divide(
        sums[..., 0],
        sums[..., 1],
        out=np.full(sums.shape[:-1], np.nan),
        where=sums[..., 1] != 0,
    )


def resample_counts(rows: int, draws: int = DRAWS, seed: int = 0) -> Int[np.ndarray, "draws rows"]:
    """Count how often each row occurs in each of `draws` resamples with replacement."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(rows, size=(draws, rows)) + rows * np.arange(draws)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=draws * rows).reshape(draws, rows)


def resampled_sums(
    rows: Float[np.ndarray, "n k"], draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws k"]:
    """Return the sums of the rows over each of `draws` resamples with replacement."""
    rows = np.asarray(rows, np.float64)
    step = max(1, _BLOCK_SIZE // max(len(rows), 1))
    blocks = [
        resample_counts(len(rows), min(step, draws - start), seed + 7919 * start) @ rows
        for start in range(0, draws, step)
    ]
    return np.concatenate(blocks)


def bootstrap(
    rows: ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray] = ratio,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Estimate a statistic of sums with its percentile interval over rows (Efron 1979).

    Args:
        rows: the numbers to sum, (n, k) with one row per example; (n,) for a plain mean.
        statistic: maps sums (..., k) to values (...); by default first over second column.
        draws: number of resamples.
        seed: seed of the resamples; the same seed draws the same rows, so that calls compare.
        level: coverage of the interval.

    Returns:
        The statistic of all rows with its interval. One row has no interval (its bounds are nan,
        since all resamples are equal); all three are nan if there are no rows.
    """
    rows = _columns(rows)
    if not len(rows):
        return Interval(np.nan, np.nan, np.nan)
    if len(rows) < 2:
        return Interval(float(statistic(rows.sum(0))), np.nan, np.nan)
    values = statistic(resampled_sums(rows, draws, seed))
    return percentile_interval(float(statistic(rows.sum(0))), values, level)


def bootstrap_indices(
    rows: int,
    statistic: Callable[[Int[np.ndarray, " rows"]], float],
    *,
    draws: int = 200,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Bootstrap any statistic of rows, with one call per resample.

    Do not use it for a statistic that repeated rows bias, such as a U-statistic or an entropy.

    Args:
        rows: number of rows.
        statistic: maps indices of rows to a value.
        draws: number of resamples.
        seed: seed of the resamples.
        level: coverage of the interval.

    Returns:
        The statistic of all rows with its percentile interval; one row has none (nan).

    Raises:
        ValueError: if there are no rows.
    """
    if rows < 1:
        raise ValueError("a bootstrap needs at least one row")
    if rows < 2:
        return Interval(float(statistic(np.arange(rows))), np.nan, np.nan)
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(rows, size=rows)) for _ in range(draws)]
    return percentile_interval(float(statistic(np.arange(rows))), np.asarray(values), level)


def percentile_interval(value: float, values: ArrayLike, level: float = LEVEL) -> Interval:
    """Return an estimate with the percentile interval of its resampled values.

    Args:
        value: the estimate.
        values: one value per resample; those that are not finite are ignored.
        level: coverage of the interval.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Return a mean with Student's t interval, for example over runs of several seeds.

    Args:
        values: one value per run; the bounds are nan if there is only one, all if there is none.
        level: coverage of the interval if the values are normally distributed.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    half = t_quantile(len(values) - 1, level) * float(values.std(ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """Return the half width of a two-sided t interval in standard errors.

    Args:
        freedom: degrees of freedom.
        level: coverage of the interval.
    """
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, freedom))


def jackknife(
    measure: Callable[[np.ndarray], dict[str, float]],
    rows: ArrayLike,
    *,
    groups: int = 20,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Return intervals of measures that are not sums, by leaving out one group of rows at a time.

    This is the delete-a-group jackknife (Shao & Wu 1989). Its variance is (G - 1) / G times the
    sum of squared distances from the mean of the G partial values. Unlike a bootstrap it repeats
    no row, which would narrow a spectrum.

    Args:
        measure: maps some of the rows to its values by name.
        rows: one row per example; the bounds are nan if there are fewer than two.
        groups: G, the number of groups, limited to the number of rows.
        seed: seed of the assignment of rows to groups.
        level: coverage of the intervals.

    Returns:
        Each of the measure's values with its Student's t interval.
    """
    rows = np.asarray(rows)
    groups, whole = min(groups, len(rows)), measure(rows)
    if groups < 2:
        return {name: Interval(float(x), np.nan, np.nan) for name, x in whole.items()}
    member = np.random.default_rng(seed).permutation(len(rows)) % groups
    parts = [measure(rows[member != g]) for g in range(groups)]
    width = t_quantile(groups - 1, level)
    out = {}
    for name, value in whole.items():
        partial = np.asarray([part[name] for part in parts], np.float64)
        half = width * np.sqrt((groups - 1) * partial.var())
        out[name] = Interval(float(value), float(value - half), float(value + half))
    return out


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray] = ratio,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Bootstrap statistic(first) - statistic(second), resampling the shared examples.

    Args:
        first: rows of one system, as for `bootstrap`.
        second: rows of the other system for the same examples in the same order.
        statistic: maps sums (..., k) to values (...), as for `bootstrap`.
        draws: number of resamples.
        seed: seed of the resamples.
        level: coverage of the interval.

    Returns:
        The difference with its percentile interval.

    Raises:
        ValueError: if the two have different shapes.
    """
    first, second = _columns(first), _columns(second)
    if first.shape != second.shape:
        raise ValueError(f"paired rows must have one shape, not {first.shape} and {second.shape}")
    width = first.shape[1]

    def difference(sums: np.ndarray) -> np.ndarray:
        return statistic(sums[..., :width]) - statistic(sums[..., width:])

    both = np.concatenate([first, second], axis=1)
    return bootstrap(both, difference, draws=draws, seed=seed, level=level)


def _columns(rows: ArrayLike) -> Float[np.ndarray, "n k"]:
    """Return rows as a float64 matrix; a vector gets a second column of weights of one."""
    rows = np.asarray(rows, np.float64)
    return np.stack([rows, np.ones_like(rows)], axis=1) if rows.ndim == 1 else rows


def midranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return ranks from 1; tied values share the mean of their ranks."""
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return (ends - (sizes - 1) / 2)[inverse]


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the ROC curve.

    It is the probability that a positive example scores above a negative one, where ties count
    half (Mann & Whitney 1947).

    Args:
        scores: one number per example, (n,).
        labels: true for positive examples, (n,).

    Raises:
        ValueError: if one of the two classes is missing.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise ValueError("AUROC needs positive and negative examples")
    above = midranks(scores)[labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def auroc_interval(
    scores: ArrayLike, labels: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return AUROC with a bootstrap interval; positives and negatives are resampled separately.

    The bounds are nan if one of the two has a single example, whose resamples are all equal.

    Args:
        scores: one number per example, (n,).
        labels: true for positive examples, (n,).
        draws: number of resamples.
        seed: seed of the resamples.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    value = auroc(scores, labels)
    groups, rng = (scores[labels], scores[~labels]), np.random.default_rng(seed)
    if min(map(len, groups)) < 2:
        return Interval(value, np.nan, np.nan)
    kinds = np.repeat([True, False], [len(g) for g in groups])
    values = [
        auroc(np.concatenate([g[rng.integers(len(g), size=len(g))] for g in groups]), kinds)
        for _ in range(draws)
    ]
    return percentile_interval(value, values)


def p_value(observed: float, null: ArrayLike) -> float:
    """Return the share of null values at least as large as the observed one.

    The observed value counts as one of them, so the result is never 0. It is nan if the observed
    value is undefined (nan), or there are no null values.
    """
    null = np.asarray(null, np.float64)
    null = null[~np.isnan(null)]
    if np.isnan(observed) or not len(null):
        return float("nan")
    # Values that differ only by rounding count as equal.
    slack = 1e-12 * max(1.0, abs(observed))
    return float((1 + np.sum(null >= observed - slack)) / (1 + len(null)))


def permutation_test(
    first: ArrayLike, second: ArrayLike, *, draws: int = 2000, seed: int = 0
) -> float:
    """Return the two-sided p-value of a difference of two samples' means.

    Args:
        first: numbers of one sample, (n,).
        second: numbers of the other sample, (m,); the two need not be paired.
        draws: number of random permutations of the labels.
        seed: seed of the permutations.

    Raises:
        ValueError: if a sample is empty.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if not len(first) or not len(second):
        raise ValueError("a permutation test needs numbers in both samples")
    pool = np.concatenate([first, second])
    labels = permuted_labels(len(first), len(second), draws, seed)
    sums = labels @ pool
    null = np.abs(sums / len(first) - (pool.sum() - sums) / len(second))
    return p_value(abs(first.mean() - second.mean()), null)


def permuted_labels(
    first: int, second: int, draws: int, seed: int = 0
) -> Float[np.ndarray, "draws n"]:
    """Return random labels of a pool of two samples.

    Args:
        first: size of the first sample.
        second: size of the second sample.
        draws: number of permutations.
        seed: seed of the permutations.

    Returns:
        1 for rows labelled as the first sample and 0 for the others, (draws, first + second).
    """
    labels = np.repeat([1.0, 0.0], [first, second])
    return np.random.default_rng(seed).permuted(np.tile(labels, (draws, 1)), axis=1)


def sign_flip_test(differences: ArrayLike, *, draws: int = 2000, seed: int = 0) -> float:
    """Return the two-sided p-value of a mean of paired differences.

    Args:
        differences: one difference per pair, (n,).
        draws: number of times that all signs are flipped at random.
        seed: seed of the flips.

    Raises:
        ValueError: if there are no differences.
    """
    values = np.asarray(differences, np.float64)
    if not len(values):
        raise ValueError("a sign-flip test needs at least one difference")
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, len(values)))
    return p_value(abs(values.mean()), np.abs(signs @ values / len(values)))
