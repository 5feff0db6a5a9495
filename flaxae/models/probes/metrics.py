"""Measures of scores, computed on the device: tie-aware AUROC, recall at 1 % false positives.

Rows have integer weights: 0 for rows that are left out, and the counts of a bootstrap's resample.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from flaxae.measures.stats import DRAWS, Interval, percentile_interval, resample_counts

FALSE_POSITIVES = 0.01
_HALF = 2**12  # integers are summed in two halves, which int32 holds for millions of pairs


def auroc(
    scores: Float[Array, "N"], labels: Bool[Array, "N"], weights: Int[Array, "N"] | None = None
) -> Float[Array, ""]:
    """Return the area under the ROC curve; ties count half. It is nan if a class is absent.

    The pairs are counted in integers; only their sum and quotient are rounded to float32.

    Args:
        scores: one number per row.
        labels: True for positive rows.
        weights: number of times that each row counts; None: once.
    """
    count = jnp.ones(scores.shape, jnp.int32) if weights is None else weights.astype(jnp.int32)
    positive = jnp.where(labels, count, 0)
    negative = count - positive
    order = jnp.argsort(scores)
    ordered = scores[order]
    below = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(negative[order])])  # (N + 1)
    first = jnp.searchsorted(ordered, scores, side="left")
    last = jnp.searchsorted(ordered, scores, side="right")
    pairs = below[first] + below[last]  # twice the negatives below, ties once
    high = jnp.sum(positive * (pairs // _HALF)).astype(jnp.float32)
    low = jnp.sum(positive * (pairs % _HALF)).astype(jnp.float32)
    total = 2.0 * positive.sum().astype(jnp.float32) * negative.sum().astype(jnp.float32)
    return jnp.where(total > 0, (high * _HALF + low) / jnp.where(total > 0, total, 1.0), jnp.nan)


def weighted_balanced_accuracy(
    given: Bool[Array, "N"], labels: Bool[Array, "N"], weights: Int[Array, "N"] | None = None
) -> Float[Array, ""]:
    """Return the mean of the two classes' accuracies; nan if a class is absent."""
    count = jnp.ones(given.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    right = (given == labels).astype(jnp.float32) * count

    def of_class(mask: Array) -> Array:
        size = jnp.sum(jnp.where(mask, count, 0.0))
        hits = jnp.sum(jnp.where(mask, right, 0.0))
        return jnp.where(size > 0, hits / jnp.where(size > 0, size, 1.0), jnp.nan)

    return 0.5 * (of_class(labels) + of_class(~labels))


def recall_above(
    scores: Float[Array, "N"],
    labels: Bool[Array, "N"],
    threshold: Float[Array, ""] | float,
    weights: Int[Array, "N"] | None = None,
) -> Float[Array, ""]:
    """Return the share of positive rows that score above a threshold; nan without such rows."""
    count = jnp.ones(scores.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    count = jnp.where(labels, count, 0.0)
    found = jnp.sum(jnp.where(scores > threshold, count, 0.0))
    return jnp.where(count.sum() > 0, found / jnp.maximum(count.sum(), 1.0), jnp.nan)


def control_threshold(scores: ArrayLike, share: float = FALSE_POSITIVES) -> float:
    """Return the lowest threshold that at most the given share of control rows exceeds.

    Args:
        scores: scores of control rows, all of them negative; they must be in no other split.
        share: share of false positives.

    Raises:
        ValueError: if there are no control rows.
    """
    ordered = np.sort(np.asarray(scores, np.float64))[::-1]
    if not len(ordered):
        raise ValueError("a threshold of false positives needs control rows")
    # `allowed` rows may be above the threshold, so it is the score of the next one.
    allowed = min(int(np.floor(share * len(ordered) + 1e-9)), len(ordered) - 1)
    return float(ordered[allowed])


_auroc = jax.jit(auroc)
_balanced = jax.jit(weighted_balanced_accuracy)


def auroc_of(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the AUROC of arrays on the host, see `auroc`."""
    return float(_auroc(jnp.asarray(_ranked(scores)[0]), jnp.asarray(labels, bool)))


def balanced_accuracy(given: ArrayLike, labels: ArrayLike) -> float:
    """Return the balanced accuracy of arrays on the host."""
    return float(_balanced(jnp.asarray(given, bool), jnp.asarray(labels, bool)))


def _ranked(scores: ArrayLike, threshold: float = float("nan")) -> tuple[np.ndarray, float]:
    """Return dense ranks of scores, and a threshold of ranks with the same rows above.

    float32 represents ranks exactly; scores that differ in float64 only would become ties.
    """
    values, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    return place.astype(np.float32), float(np.searchsorted(values, threshold, side="right")) - 0.5


@jax.jit
def _measures(
    scores: Array, given: Array, labels: Array, threshold: Array, weights: Array
) -> dict[str, Array]:
    """Return all measures for each row of weights."""

    def one(count: Array) -> dict[str, Array]:
        right = (given == labels).astype(jnp.float32) * count.astype(jnp.float32)
        return {
            "acc": right.sum() / jnp.maximum(count.sum(), 1).astype(jnp.float32),
            "bal_acc": weighted_balanced_accuracy(given, labels, count),
            "auroc": auroc(scores, labels, count),
            "recall": recall_above(scores, labels, threshold, count),
        }

    return jax.lax.map(one, weights, batch_size=64)


def group_weights(groups: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Int[np.ndarray, "R N"]:
    """Return how often each row counts: once in the first row, then in each resample of groups.

    Groups are resampled, since the statements and prompts of one fact are not independent.

    Args:
        groups: name of each row's group, (N,).
        draws: number of resamples, R - 1.
        seed: seed of the resamples; the same seed draws the same groups, so that probes compare.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    counts = resample_counts(len(names), draws, seed)[:, member]
    return np.concatenate([np.ones((1, len(member)), np.int32), counts.astype(np.int32)])


def resampled(
    scores: ArrayLike,
    labels: ArrayLike,
    weights: Int[np.ndarray, "R N"],
    *,
    threshold: float = float("nan"),
) -> dict[str, Float[np.ndarray, " R"]]:
    """Return acc, bal_acc, auroc and recall for each row of weights.

    Args:
        scores: log odds of label 1 of each row, (N,); above 0 the answer is 1.
        labels: label of each row, (N,).
        weights: see `group_weights`.
        threshold: of `recall`, see `control_threshold`; nan: recall is nan.
    """
    scores = np.asarray(scores, np.float64)
    ranks, cut = _ranked(scores, threshold)
    found = _measures(
        ranks, scores > 0, np.asarray(labels, bool), np.float32(cut), jnp.asarray(weights)
    )
    out = {name: np.asarray(values, np.float64) for name, values in found.items()}
    if np.isnan(threshold):
        out["recall"] = np.full_like(out["recall"], np.nan)
    return out


def interval_of(values: Float[np.ndarray, " R"]) -> Interval:
    """Return the first value with the percentile interval of the others."""
    return percentile_interval(float(values[0]), values[1:])


def intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    threshold: float = float("nan"),
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return acc, bal_acc, auroc and recall with bootstrap intervals over groups.

    Args:
        scores: log odds of label 1 of each row, (N,).
        labels: label of each row, (N,).
        groups: see `group_weights`.
        threshold: see `resampled`.
        draws: number of resamples.
        seed: seed of the resamples.
    """
    weights = group_weights(groups, draws, seed)
    found = resampled(scores, labels, weights, threshold=threshold)
    return {name: interval_of(values) for name, values in found.items()}
