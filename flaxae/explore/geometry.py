"""Codes as points: principal directions, how likely they are, who is near."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Shape(NamedTuple):
    """A cloud of codes as a Gaussian along its principal directions.

    Attributes:
        mean: (D,).
        directions: (D, D), a row each, the widest first; its largest number is positive.
        variances: (D,) along them, shrunk (Ledoit & Wolf 2004).
        log_likelihoods: of the codes themselves, sorted.
    """

    mean: Float[np.ndarray, " D"]
    directions: Float[np.ndarray, "D D"]
    variances: Float[np.ndarray, " D"]
    log_likelihoods: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, codes: Float[np.ndarray, "n D"]) -> "Shape":
        from sklearn.covariance import ledoit_wolf

        mean = codes.mean(0)
        covariance, _ = ledoit_wolf(codes - mean[None], assume_centered=True)
        variances, vectors = np.linalg.eigh(covariance.astype(np.float64))
        variances = np.maximum(variances[::-1], 1e-12 * max(variances.max(), 1e-12))
        directions = vectors[:, ::-1].T
        largest = np.abs(directions).argmax(1)
        directions = directions * np.sign(directions[np.arange(len(mean)), largest])[:, None]
        shape = cls(mean, directions.astype(np.float32), variances, np.zeros(0))
        return shape._replace(log_likelihoods=np.sort(shape.log_likelihood(codes)))

    def project(self, codes: Float[np.ndarray, "n D"], count: int) -> Float[np.ndarray, "n k"]:
        """Coordinates along the first `count` directions."""
        return (codes - self.mean[None]) @ self.directions[:count].T

    def place(self, coordinates: Float[np.ndarray, " k"]) -> Float[np.ndarray, " D"]:
        """The code at coordinates along the first directions, at the mean along all others."""
        flat = np.asarray(coordinates, np.float32)
        return self.mean + flat @ self.directions[: len(flat)]

    def log_likelihood(self, codes: Float[np.ndarray, "n D"]) -> Float[np.ndarray, " n"]:
        """Log density of codes, up to a constant, in nats."""
        along = (codes - self.mean[None]).astype(np.float64) @ self.directions.T
        return -0.5 * (along**2 / self.variances + np.log(self.variances)).sum(1)

    def percentile(self, code: Float[np.ndarray, " D"]) -> float:
        """The share of the cloud's own codes that are less likely than this one."""
        value = self.log_likelihood(code[None])[0]
        return float(np.searchsorted(self.log_likelihoods, value) / len(self.log_likelihoods))


def nearest(
    here: Float[np.ndarray, " D"], codes: Float[np.ndarray, "n D"], k: int, metric: str = "cosine"
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The rows nearest to a point.

    Args:
        here: the point.
        codes: where to look.
        k: how many; of fewer rows all.
        metric: "cosine" (1 - cosine) or "euclid".

    Returns:
        Their numbers and distances, nearest first.
    """
    if metric == "euclid":
        distance = np.linalg.norm(codes - here[None], axis=1)
    else:
        norms = np.linalg.norm(codes, axis=1) * np.linalg.norm(here)
        distance = 1 - codes @ here / np.maximum(norms, 1e-12)
    best = np.argsort(distance, kind="stable")[:k]
    return best, distance[best]


def clusters(coordinates: Float[np.ndarray, "n k"], count: int) -> Int[np.ndarray, " n"]:
    """k-means, the largest cluster first."""
    from sklearn.cluster import KMeans

    if len(coordinates) < count:
        return np.zeros(len(coordinates), int)
    starts: Any = 1
    labels = KMeans(count, n_init=starts, random_state=0).fit_predict(coordinates)
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return np.argsort(order)[labels]
