"""Measures of a dictionary against the features that its data was made of.

Both are the definitions of `sae_lens.synthetic`, so that numbers can be compared.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment


def cosines(a: Float[np.ndarray, "A D"], b: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "A B"]:
    """Return the absolute cosines between two sets of vectors; zeros have cosine 0."""
    norms = [np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-8) for x in (a, b)]
    return np.abs((a / norms[0]) @ (b / norms[1]).T)


def mean_correlation(
    directions: Float[np.ndarray, "F D"], features: Float[np.ndarray, "G D"]
) -> float:
    """Return the mean cosine of features and directions, matched one to one (MCC).

    The matching is the best one. With unequal numbers, the vectors that are left over do not count.

    Args:
        directions: what the dictionary's latents write.
        features: the features of the data.

    Returns:
        A number between 0 and 1.
    """
    similar = cosines(directions, features)
    rows, columns = linear_sum_assignment(similar, maximize=True)
    return float(similar[rows, columns].mean())


def detection_f1(
    fired: Bool[np.ndarray, "N F"],
    present: Bool[np.ndarray, "N G"],
    directions: Float[np.ndarray, "F D"],
    features: Float[np.ndarray, "G D"],
) -> float:
    """Return the mean F1 of latents as detectors of the feature with the nearest direction.

    Args:
        fired: whether each latent is active in each state.
        present: whether each feature is in the state.
        directions: what the latents write.
        features: directions of the features.

    Returns:
        A number between 0 and 1. A latent that is never right has F1 0.
    """
    wanted = present[:, cosines(directions, features).argmax(-1)]  # (N, F)
    hits, calls, events = (x.sum(0) for x in (fired & wanted, fired, wanted))
    return float((2 * hits / np.maximum(calls + events, 1)).mean())
