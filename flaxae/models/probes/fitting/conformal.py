"""Split-conformal prediction: sets of labels with a coverage per class, intervals of scores.

Both are calibrated on examples that the probe was not fitted on, and hold for examples that are
exchangeable with them (Vovk et al. 2005).
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from flaxae.errors import require


def conformal_quantile(values: ArrayLike, alpha: float) -> float:
    """Return the ceil((n + 1)(1 - alpha))-th smallest of n values; infinite if n is too small.

    Args:
        values: nonconformity of the calibration examples.
        alpha: share of errors that is allowed, in (0, 1).
    """
    require(0 < alpha < 1, f"alpha={alpha} must be in (0, 1)")
    values = np.sort(np.asarray(values, np.float64))
    rank = int(np.ceil((len(values) + 1) * (1 - alpha) - 1e-12))
    return float(values[rank - 1]) if rank <= len(values) else float("inf")


def set_thresholds(
    proba: Float[np.ndarray, "N 2"], labels: ArrayLike, alpha: float = 0.1
) -> Float[np.ndarray, "2"]:
    """Return the largest 1 - p of each class that a set still contains (Mondrian, per class).

    Args:
        proba: probabilities of the calibration examples.
        labels: their labels.
        alpha: share of examples of each class whose set may lack their label.
    """
    labels = np.asarray(labels).astype(int)
    return np.asarray(
        [conformal_quantile(1 - proba[labels == c, c], alpha) for c in (0, 1)], np.float64
    )


def prediction_sets(
    proba: Float[np.ndarray, "N 2"], thresholds: Float[np.ndarray, "2"]
) -> Bool[np.ndarray, "N 2"]:
    """Return the labels in each example's set: none, one or both."""
    return 1 - np.asarray(proba, np.float64) <= thresholds[None]


def interval_radius(predicted: ArrayLike, actual: ArrayLike, alpha: float = 0.1) -> float:
    """Return r such that predicted +- r contains 1 - alpha of new actual values.

    Args:
        predicted: regressed scores of the calibration examples.
        actual: their true values.
        alpha: share of intervals that may miss.
    """
    error = np.abs(np.asarray(predicted, np.float64) - np.asarray(actual, np.float64))
    return conformal_quantile(error, alpha)
