"""The geometry of codes: principal directions, likelihood, nearest neighbours, clusters."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int


class FittedGaussian(NamedTuple):
    """A Gaussian fitted to codes, along its principal directions.

    Attributes:
        mean: mean of the codes.
        directions: principal directions, one per row, largest variance first; the number of
            largest magnitude in each is positive.
        variances: variances along the directions, shrunk (Ledoit & Wolf 2004).
        log_likelihoods: log densities of the codes themselves, sorted.
    """

    mean: Float[np.ndarray, " D"]
    directions: Float[np.ndarray, "D D"]
    variances: Float[np.ndarray, " D"]
    log_likelihoods: Float[np.ndarray, " n"]

    @classmethod
    def fit(cls, codes: Float[np.ndarray, "n D"]) -> "FittedGaussian":
        """Fit a Gaussian to codes."""
        from sklearn.covariance import ledoit_wolf

        mean = codes.mean(0)
        covariance, _ = ledoit_wolf(codes - mean[None], assume_centered=True)
        variances, vectors = np.linalg.eigh(covariance.astype(np.float64))
        variances = np.maximum(variances[::-1], 1e-12 * max(variances.max(), 1e-12))
        directions = vectors[:, ::-1].T  # (D, D), one direction per row
        largest = np.abs(directions).argmax(1)
        directions = directions * np.sign(directions[np.arange(len(mean)), largest])[:, None]
        made = cls(mean, directions.astype(np.float32), variances, np.zeros(0))
        return made._replace(log_likelihoods=np.sort(made.log_likelihood(codes)))

    def project(self, codes: Float[np.ndarray, "n D"], count: int) -> Float[np.ndarray, "n k"]:
        """Return the coordinates of codes along the first `count` directions."""
        return (codes - self.mean[None]) @ self.directions[:count].T

    def place(self, coordinates: Float[np.ndarray, " k"]) -> Float[np.ndarray, " D"]:
        """Return the code with these first coordinates and all others at the mean."""
        flat = np.asarray(coordinates, np.float32)
        return self.mean + flat @ self.directions[: len(flat)]

    def log_likelihood(self, codes: Float[np.ndarray, "n D"]) -> Float[np.ndarray, " n"]:
        """Return the log density of codes in nats, up to a constant."""
        along = (codes - self.mean[None]).astype(np.float64) @ self.directions.T
        return -0.5 * (along**2 / self.variances + np.log(self.variances)).sum(1)

    def percentile(self, code: Float[np.ndarray, " D"]) -> float:
        """Return the share of the fitted codes that are less likely than this one."""
        value = self.log_likelihood(code[None])[0]
        return float(np.searchsorted(self.log_likelihoods, value) / len(self.log_likelihoods))


def nearest(
    code: Float[np.ndarray, " D"], codes: Float[np.ndarray, "n D"], k: int, metric: str = "cosine"
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Find the rows nearest to a code.

    Args:
        code: the code to compare with.
        codes: the rows to search.
        k: number of rows to return; all if there are fewer.
        metric: "cosine" (1 - cosine similarity) or "euclid".

    Returns:
        Indices and distances of the rows, nearest first.
    """
    if metric == "euclid":
        distance = np.linalg.norm(codes - code[None], axis=1)
    else:
        norms = np.linalg.norm(codes, axis=1) * np.linalg.norm(code)
        distance = 1 - codes @ code / np.maximum(norms, 1e-12)
    best = np.argsort(distance, kind="stable")[:k]
    return best, distance[best]


def clusters(coordinates: Float[np.ndarray, "n k"], count: int) -> Int[np.ndarray, " n"]:
    """Return the k-means cluster of each row, clusters numbered by size, the largest first."""
    from sklearn.cluster import KMeans

    if len(coordinates) < count:
        return np.zeros(len(coordinates), int)
    starts: Any = 1
    labels = KMeans(count, n_init=starts, random_state=0).fit_predict(coordinates)
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return np.argsort(order)[labels]
