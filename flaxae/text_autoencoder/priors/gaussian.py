"""Gaussian priors: N(0, std^2 I), and a full covariance fitted to codes."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from flaxae.text_autoencoder.priors.base import Prior, codes_to_fit, read, rows_of, write


class StandardNormal(Prior):
    """N(0, std^2 I), the distribution that the training objective pulls codes to."""

    kind = "normal"

    def __init__(self, dim: int, std: float = 1.0):
        """Set the size and the standard deviation.

        Args:
            dim: numbers per code.
            std: 1 / (the factor by which decoding scales clean codes), so that the decoder reads
                N(0, I), the distribution of noisy codes in training.
        """
        self.dim, self.std = dim, std

    def to_noise(self, z: Any) -> Float[np.ndarray, "n D"]:
        """Divide codes by the standard deviation."""
        return rows_of(z, self.dim) / np.float32(self.std)

    def from_noise(self, e: Any) -> Float[np.ndarray, "n D"]:
        """Multiply noise by the standard deviation."""
        return rows_of(e, self.dim) * np.float32(self.std)

    def save(self, folder: str | Path) -> None:
        """Write the prior into a folder."""
        write(folder, {"kind": self.kind, "dim": self.dim, "std": self.std}, {})

    @classmethod
    def load(cls, folder: str | Path) -> "StandardNormal":
        """Return the prior of a folder."""
        about, _ = read(folder)
        return cls(about["dim"], about["std"])


class GaussianPrior(Prior):
    """N(m, L L^T) with full covariance; z = m + L e is an exact bijection."""

    kind = "gaussian"

    def __init__(self, mean: Float[np.ndarray, " D"], factor: Float[np.ndarray, "D D"]):
        """Set the parameters.

        Args:
            mean: m.
            factor: L, the lower Cholesky factor of the covariance.
        """
        self.mean = np.asarray(mean, np.float32)
        self.factor = np.asarray(factor, np.float32)
        self.dim = len(self.mean)

    @classmethod
    def fit(cls, codes: Float[np.ndarray, "n D"]) -> "GaussianPrior":
        """Fit mean and shrunk covariance (see `shrunk_covariance`)."""
        codes = codes_to_fit(codes)
        mean = codes.mean(0)
        covariance = shrunk_covariance(codes - mean)
        # Keeps the factor positive definite if a dimension is constant.
        floor = 1e-6 * np.trace(covariance) / len(mean) * np.eye(len(mean))
        return cls(mean, np.linalg.cholesky(covariance + floor))

    def to_noise(self, z: Any) -> Float[np.ndarray, "n D"]:
        """Whiten codes."""
        return unmultiply(self.factor, rows_of(z, self.dim) - self.mean[None])

    def from_noise(self, e: Any) -> Float[np.ndarray, "n D"]:
        """Return m + L e."""
        return multiply(self.factor, rows_of(e, self.dim)) + self.mean[None]

    def save(self, folder: str | Path) -> None:
        """Write the prior into a folder."""
        about = {"kind": self.kind, "made_for": self.made_for}
        write(folder, about, {"mean": self.mean, "factor": self.factor})

    @classmethod
    def load(cls, folder: str | Path) -> "GaussianPrior":
        """Return the prior of a folder."""
        about, arrays = read(folder)
        prior = cls(arrays["mean"], arrays["factor"])
        prior.made_for = about.get("made_for", "")  # priors of older versions lack it
        return prior


def shrunk_covariance(centred: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "D D"]:
    """Return the covariance S, shrunk to (1 - s) S + s tr(S)/D I.

    The s minimises the expected squared error (Ledoit & Wolf 2004, eq. 14).

    Args:
        centred: codes minus their mean.
    """
    n, dim = centred.shape
    covariance = centred.T @ centred / n
    level = np.trace(covariance) / dim
    distance = np.square(covariance - level * np.eye(dim)).sum()
    spread = (np.square(centred).sum(1) ** 2).mean() - np.square(covariance).sum()
    share = 1.0 if distance <= 0 else min(1.0, max(0.0, spread / n / distance))
    return (1 - share) * covariance + share * level * np.eye(dim)


def multiply(
    factor: Float[np.ndarray, "D D"], e: Float[np.ndarray, "n D"]
) -> Float[np.ndarray, "n D"]:
    """Return L e of each row, for a lower factor L."""
    return (e.astype(np.float64) @ factor.astype(np.float64).T).astype(np.float32)


def unmultiply(
    factor: Float[np.ndarray, "D D"], z: Float[np.ndarray, "n D"]
) -> Float[np.ndarray, "n D"]:
    """Return the e of each row whose L e is z, for a lower factor L."""
    solved = solve_triangular(factor.astype(np.float64), z.T.astype(np.float64), lower=True)
    return solved.T.astype(np.float32)
