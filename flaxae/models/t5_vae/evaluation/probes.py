"""Linear probes: how well a linear classifier predicts a label from a representation."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.measures.stats import Interval, bootstrap

SHARES = (0.01, 0.1, 1.0)


def probe(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "m d"],
    truth: Int[np.ndarray, " m"],
    seed: int = 0,
) -> Interval:
    """Return the accuracy of a logistic regression, with its interval over test texts.

    Args:
        train: representations of the training texts, which also standardize each dimension.
        labels: labels of the training texts.
        test: representations of the test texts.
        truth: labels of the test texts.
        seed: seed of the bootstrap.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        return bootstrap(truth == labels[0], seed=seed)
    mean, std = train.mean(0), train.std(0) + 1e-6
    model = LogisticRegression(max_iter=200, tol=1e-3, C=0.1).fit((train - mean) / std, labels)
    return bootstrap(model.predict((test - mean) / std) == truth, seed=seed)


def study(
    train: dict[str, Float[np.ndarray, "n d"]],
    labels: Int[np.ndarray, " n"],
    test: dict[str, Float[np.ndarray, "m d"]],
    truth: Int[np.ndarray, " m"],
    shares: tuple[float, ...] = SHARES,
) -> dict[str, Any]:
    """Probe several representations with several numbers of labels.

    Args:
        train: representations of the training texts by name.
        labels: labels of the training texts.
        test: representations of the test texts by name.
        truth: labels of the test texts.
        shares: shares of the training texts to use; all representations see the same texts.

    Returns:
        classes, majority (accuracy of the most frequent label), labels (number used by share) and
        accuracy (value and interval by name and share).
    """
    order = np.random.default_rng(0).permutation(len(labels))
    counts = {f"{share:g}": max(2, round(share * len(labels))) for share in shares}
    values, number = np.unique(labels, return_counts=True)
    out: dict[str, Any] = {
        "classes": len(values),
        "majority": bootstrap(truth == values[number.argmax()]).as_dict(),
        "labels": counts,
        "accuracy": {},
    }
    for name, features in train.items():
        out["accuracy"][name] = {
            share: probe(
                features[order[:count]], labels[order[:count]], test[name], truth
            ).as_dict()
            for share, count in counts.items()
        }
    return out
