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

    The pairs are counted in integers, so the result is exact up to one rounding of float32.

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
    return float(_auroc(jnp.asarray(scores, jnp.float32), jnp.asarray(labels, bool)))


def balanced_accuracy(given: ArrayLike, labels: ArrayLike) -> float:
    """Return the balanced accuracy of arrays on the host."""
    return float(_balanced(jnp.asarray(given, bool), jnp.asarray(labels, bool)))


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


def intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    given: ArrayLike | None = None,
    threshold: float = float("nan"),
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return acc, bal_acc, auroc and recall with bootstrap intervals over groups.

    Groups are resampled, since the statements and prompts of one fact are not independent.

    Args:
        scores: probability of label 1 of each row, (N,).
        labels: label of each row, (N,).
        groups: name of each row's group, (N,).
        given: the answer of each row, (N,); None: scores above 0.5.
        threshold: of `recall`, see `control_threshold`; nan: recall is nan.
        draws: number of resamples.
        seed: seed of the resamples; the same seed draws the same groups, so that probes compare.
    """
    scores = np.asarray(scores, np.float32)
    given = scores > 0.5 if given is None else np.asarray(given, bool)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    counts = resample_counts(int(member.max(initial=-1)) + 1, draws, seed)[:, member]
    weights = np.concatenate([np.ones((1, len(scores)), np.int32), counts.astype(np.int32)])
    found = _measures(
        scores, given, np.asarray(labels, bool), np.float32(threshold), jnp.asarray(weights)
    )
    out = {}
    for name, values in found.items():
        values = np.asarray(values, np.float64)
        if name == "recall" and np.isnan(threshold):
            values = np.full_like(values, np.nan)
        out[name] = percentile_interval(float(values[0]), values[1:])
    return out
