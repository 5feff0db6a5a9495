"""What evaluations share: bootstrap and jackknife intervals, differences, AUROC, permutations.

All in numpy, seeded, and vectorised: a resample of rows is a matrix of counts, and a statistic of
sums (a mean, a ratio, a perplexity, BLEU) needs only that matrix times the rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

DRAWS, LEVEL = 1000, 0.95
_CELLS = 2**24  # of one block of counts: 128 MB


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and its interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(sums: Float[np.ndarray, "... k"]) -> Float[np.ndarray, "..."]:
    """The first sum over the second: the mean where the rows are (value, weight)."""
    return np.divide(
        sums[..., 0],
        sums[..., 1],
        out=np.full(sums.shape[:-1], np.nan),
        where=sums[..., 1] != 0,
    )


def counts(rows: int, draws: int = DRAWS, seed: int = 0) -> Int[np.ndarray, "draws rows"]:
    """How often each row is in each of `draws` resamples with replacement."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(rows, size=(draws, rows)) + rows * np.arange(draws)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=draws * rows).reshape(draws, rows)


def resampled_sums(
    rows: Float[np.ndarray, "n k"], draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws k"]:
    """Sums over each of `draws` resamples of the rows."""
    rows = np.asarray(rows, np.float64)
    step = max(1, _CELLS // max(len(rows), 1))
    blocks = [
        counts(len(rows), min(step, draws - start), seed + 7919 * start) @ rows
        for start in range(0, draws, step)
    ]
    return np.concatenate(blocks)


def bootstrap(
    rows: Float[np.ndarray, "n k"] | Float[np.ndarray, " n"] | Any,
    statistic: Callable[[np.ndarray], np.ndarray] = ratio,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """A statistic of sums with its percentile interval over rows (Efron 1979).

    Args:
        rows: what is summed, one row an example: one column has its mean taken.
        statistic: sums (..., k) -> value (...); default: first over second column.
        draws: number of resamples.
        seed: the same seed resamples the same rows, so that two calls can be compared.
        level: of the interval.

    Returns:
        The statistic of all rows and its interval; of no rows, three times nan.
    """
    rows = _columns(rows)
    if not len(rows):
        return Interval(np.nan, np.nan, np.nan)
    values = statistic(resampled_sums(rows, draws, seed))
    return interval(float(statistic(rows.sum(0))), values, level)


def bootstrap_indices(
    rows: int,
    statistic: Callable[[Int[np.ndarray, " rows"]], float],
    *,
    draws: int = 200,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """The same for any statistic, one call a resample: it is given indices of rows.

    A statistic that repeated rows bias (a U-statistic, an entropy) is not for this.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(rows, size=rows)) for _ in range(draws)]
    return interval(float(statistic(np.arange(rows))), np.asarray(values), level)


def interval(value: float, values: np.ndarray, level: float = LEVEL) -> Interval:
    """The percentile interval of resampled values around an estimate; nan values are left out."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def student(values: Any, level: float = LEVEL) -> Interval:
    """Student's interval of a mean: for a few runs that differ in their seed.

    Args:
        values: one of each run; a single one has no interval (nan).
        level: how often it covers the mean of normal values.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    half = student_quantile(len(values) - 1, level) * float(values.std(ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def student_quantile(freedom: float, level: float = LEVEL) -> float:
    """What a two-sided interval of Student's t is wide, in standard errors to each side."""
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, freedom))


def jackknife(
    measure: Callable[[np.ndarray], dict[str, float]],
    rows: Any,
    *,
    groups: int = 20,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Student's intervals of measures that are no sums, by leaving out a group of rows at a time.

    The delete-a-group jackknife (Shao & Wu 1989): its variance is (G - 1) / G times the sum of
    squared distances from the mean of the G partial values. Unlike a bootstrap it repeats no row,
    which would narrow a spectrum.

    Args:
        measure: some of the rows -> its values, by name.
        rows: one an example; fewer than two have no interval (nan).
        groups: G, at most one a row.
        seed: of who is in which group.
        level: of the intervals.
    """
    rows = np.asarray(rows)
    groups, whole = min(groups, len(rows)), measure(rows)
    if groups < 2:
        return {name: Interval(float(x), np.nan, np.nan) for name, x in whole.items()}
    member = np.random.default_rng(seed).permutation(len(rows)) % groups
    parts = [measure(rows[member != g]) for g in range(groups)]
    width = student_quantile(groups - 1, level)
    out = {}
    for name, value in whole.items():
        partial = np.asarray([part[name] for part in parts], np.float64)
        half = width * np.sqrt((groups - 1) * partial.var())
        out[name] = Interval(float(value), float(value - half), float(value + half))
    return out


def paired_difference(
    first: Any,
    second: Any,
    statistic: Callable[[np.ndarray], np.ndarray] = ratio,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """statistic(first) - statistic(second), both on the same examples, resampled together.

    Args:
        first: rows of one system, as for `bootstrap`.
        second: rows of the other, of the same examples in the same order.
        statistic, draws, seed, level: as for `bootstrap`.

    Raises:
        ValueError: they are not of the same examples.
    """
    first, second = _columns(first), _columns(second)
    if first.shape != second.shape:
        raise ValueError(f"paired rows must have one shape, not {first.shape} and {second.shape}")
    width = first.shape[1]

    def difference(sums: np.ndarray) -> np.ndarray:
        return statistic(sums[..., :width]) - statistic(sums[..., width:])

    both = np.concatenate([first, second], axis=1)
    return bootstrap(both, difference, draws=draws, seed=seed, level=level)


def _columns(rows: Any) -> Float[np.ndarray, "n k"]:
    """Rows as float64; a single column gets weights of one."""
    rows = np.asarray(rows, np.float64)
    return np.stack([rows, np.ones_like(rows)], axis=1) if rows.ndim == 1 else rows


def midranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 1; ties share the mean of theirs."""
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return (ends - (sizes - 1) / 2)[inverse]


def auroc(scores: Any, labels: Any) -> float:
    """The chance that a positive scores above a negative; ties count half (Mann & Whitney 1947).

    Args:
        scores: one number an example.
        labels: true for positives.

    Raises:
        ValueError: one of the two classes is missing.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise ValueError("AUROC needs positives and negatives")
    above = midranks(scores)[labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def auroc_interval(scores: Any, labels: Any, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """AUROC with a bootstrap interval; positives and negatives are resampled apart."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, bool)
    value = auroc(scores, labels)
    groups, rng = (scores[labels], scores[~labels]), np.random.default_rng(seed)
    kinds = np.repeat([True, False], [len(g) for g in groups])
    values = [
        auroc(np.concatenate([g[rng.integers(len(g), size=len(g))] for g in groups]), kinds)
        for _ in range(draws)
    ]
    return interval(value, np.asarray(values))


def p_value(observed: float, null: np.ndarray) -> float:
    """The share of null values at least as large, the observed one among them (never 0)."""
    null = np.asarray(null)
    # Values that are equal but for rounding count as at least as large.
    slack = 1e-12 * max(1.0, abs(observed))
    return float((1 + np.sum(null >= observed - slack)) / (1 + len(null)))


def permutation_test(first: Any, second: Any, *, draws: int = 2000, seed: int = 0) -> float:
    """P of a difference of two samples' means, two-sided: labels are shuffled.

    Args:
        first: numbers of one sample.
        second: numbers of the other; the two need not pair up.
        draws: number of permutations.
        seed: of the permutations.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    pool = np.concatenate([first, second])
    labels = permuted_labels(len(first), len(second), draws, seed)
    sums = labels @ pool
    null = np.abs(sums / len(first) - (pool.sum() - sums) / len(second))
    return p_value(abs(first.mean() - second.mean()), null)


def permuted_labels(
    first: int, second: int, draws: int, seed: int = 0
) -> Float[np.ndarray, "draws n"]:
    """1 where a shuffled pool's row is called one of the first sample, else 0."""
    labels = np.repeat([1.0, 0.0], [first, second])
    return np.random.default_rng(seed).permuted(np.tile(labels, (draws, 1)), axis=1)


def sign_flip_test(differences: Any, *, draws: int = 2000, seed: int = 0) -> float:
    """P of a mean of paired differences, two-sided: their signs are flipped at random."""
    values = np.asarray(differences, np.float64)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, len(values)))
    return p_value(abs(values.mean()), np.abs(signs @ values / len(values)))
