"""What codes are drawn from: N(0, I), or a density fitted to a trained model's own codes.

A prior maps codes to standard normal noise and back; sampling decodes fresh noise, and a walk
between two codes goes through their noise, where a straight line is a likely place to be.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.linalg import solve_triangular

from flaxae.errors import ConfigError
from flaxae.text_autoencoder.latents import slerp

JSON, ARRAYS = "prior.json", "prior.safetensors"


@runtime_checkable
class Prior(Protocol):
    """A density of clean codes, several latents flattened to one vector, as noise and a map.

    Attributes:
        kind: what `load_prior` knows it by.
        dim: of a code.
    """

    kind: ClassVar[str]
    dim: int

    def to_noise(self, z: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
        """The noise that `from_noise` makes codes of; N(0, I) where the prior fits the codes."""
        ...

    def from_noise(self, e: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
        """The codes of noise, float32."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes prior.json and prior.safetensors into a folder."""
        ...

    def sample(self, n: int, seed: int = 0, temperature: float = 1.0) -> Float[np.ndarray, "n D"]:
        """Draws codes, float32.

        Args:
            n: how many.
            seed: the same seed, the same codes.
            temperature: the standard deviation of the noise.
        """
        noise = np.random.default_rng(seed).normal(size=(n, self.dim))
        return self.from_noise((temperature * noise).astype(np.float32))

    def interpolate(
        self, a: Float[np.ndarray, "... D"], b: Float[np.ndarray, "... D"], steps: int
    ) -> Float[np.ndarray, "... steps D"]:
        """Codes on the way from a to b, both included: slerp between their noises.

        Args:
            a, b: one code each (D,), or as many of both (n, D).
            steps: codes of a way.
        """
        first, last = rows_of(np.atleast_2d(a), self.dim), rows_of(np.atleast_2d(b), self.dim)
        ways = self._ways(first, last, steps)
        return ways.reshape(*np.shape(a)[:-1], steps, self.dim)

    def _ways(self, a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
        """The codes of all ways, one after another."""
        return self.from_noise(slerps(self.to_noise(a), self.to_noise(b), steps))


def slerps(
    a: Float[np.ndarray, "n D"], b: Float[np.ndarray, "n D"], steps: int
) -> Float[np.ndarray, "m D"]:
    """`slerp` of each pair, one way after another."""
    return np.concatenate([slerp(x, y, steps) for x, y in zip(a, b, strict=True)])


class StandardNormal(Prior):
    """N(0, std^2 I): what the objective pulls the codes to."""

    kind = "normal"

    def __init__(self, dim: int, std: float = 1.0):
        """Takes its size.

        Args:
            dim: of a code.
            std: 1 / (the factor by which decoding scales clean codes): then what reaches the
                decoder is N(0, I), which is what it saw in training (codes with their noise).
        """
        self.dim, self.std = dim, std

    def to_noise(self, z: Any) -> Float[np.ndarray, "n D"]:
        return rows_of(z, self.dim) / np.float32(self.std)

    def from_noise(self, e: Any) -> Float[np.ndarray, "n D"]:
        return rows_of(e, self.dim) * np.float32(self.std)

    def save(self, folder: str | Path) -> None:
        write(folder, {"kind": self.kind, "dim": self.dim, "std": self.std}, {})

    @classmethod
    def load(cls, folder: str | Path) -> "StandardNormal":
        about, _ = read(folder)
        return cls(about["dim"], about["std"])


class GaussianPrior(Prior):
    """N(m, L L^T) of full covariance; z = m + L e is an exact bijection."""

    kind = "gaussian"

    def __init__(self, mean: Float[np.ndarray, " D"], factor: Float[np.ndarray, "D D"]):
        """Takes the mean and the covariance's lower Cholesky factor."""
        self.mean = np.asarray(mean, np.float32)
        self.factor = np.asarray(factor, np.float32)
        self.dim = len(self.mean)

    @classmethod
    def fit(cls, codes: Float[np.ndarray, "n D"]) -> "GaussianPrior":
        """The codes' mean and covariance, shrunk towards a multiple of I (Ledoit & Wolf 2004)."""
        codes = fitted(codes)
        mean = codes.mean(0)
        covariance = shrunk_covariance(codes - mean)
        # A dimension that never moves must not break the factor.
        floor = 1e-6 * np.trace(covariance) / len(mean) * np.eye(len(mean))
        return cls(mean, np.linalg.cholesky(covariance + floor))

    def to_noise(self, z: Any) -> Float[np.ndarray, "n D"]:
        return solve(self.factor, rows_of(z, self.dim) - self.mean[None])

    def from_noise(self, e: Any) -> Float[np.ndarray, "n D"]:
        return times(self.factor, rows_of(e, self.dim)) + self.mean[None]

    def save(self, folder: str | Path) -> None:
        write(folder, {"kind": self.kind}, {"mean": self.mean, "factor": self.factor})

    @classmethod
    def load(cls, folder: str | Path) -> "GaussianPrior":
        _, arrays = read(folder)
        return cls(arrays["mean"], arrays["factor"])


def shrunk_covariance(centred: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "D D"]:
    """(1 - s) S + s tr(S)/D I with the s of least expected error (Ledoit & Wolf 2004, eq. 14)."""
    n, dim = centred.shape
    covariance = centred.T @ centred / n
    level = np.trace(covariance) / dim
    distance = np.square(covariance - level * np.eye(dim)).sum()
    spread = (np.square(centred).sum(1) ** 2).mean() - np.square(covariance).sum()
    share = 1.0 if distance <= 0 else min(1.0, max(0.0, spread / n / distance))
    return (1 - share) * covariance + share * level * np.eye(dim)


def rows_of(x: Any, dim: int) -> Float[np.ndarray, "n D"]:
    """Codes or noise as float32 rows of `dim`; (n, L, Z) is flattened.

    Raises:
        ConfigError: they are of another width.
    """
    x = np.asarray(x, np.float32)
    if x.ndim < 2 or int(np.prod(x.shape[1:])) != dim:
        raise ConfigError(f"codes of shape {x.shape}: this prior is of (n, {dim})")
    return x.reshape(len(x), dim)


def write(folder: str | Path, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Saves a prior's description and its arrays."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / ARRAYS)
        (folder / JSON).write_text(json.dumps(about, indent=2) + "\n")
    except OSError as e:
        raise ConfigError(f"cannot write a prior into {folder}: {e.strerror}") from None


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `write` saved. Raises ConfigError where there is none, or it is damaged."""
    folder = Path(folder)
    try:
        return json.loads((folder / JSON).read_text()), load_file(folder / ARRAYS)
    except OSError:
        raise ConfigError(f"{folder} holds no prior: it needs {JSON} and {ARRAYS}") from None
    except (ValueError, SafetensorError) as e:
        raise ConfigError(f"the prior in {folder} cannot be read: {e}") from None


def fitted(codes: Any) -> Float[np.ndarray, "n D"]:
    """Codes to fit to, flattened, float64. Raises ConfigError where nothing can be fitted."""
    codes = np.asarray(codes, np.float64)
    codes = codes.reshape(len(codes), -1)
    if len(codes) < 2 or not np.isfinite(codes).all():
        raise ConfigError(f"{len(codes)} codes: a prior is fitted to two or more, all finite")
    if not codes.var(0).any():
        raise ConfigError("all codes are equal: no prior can be fitted to a collapsed code")
    return codes


def times(factor: np.ndarray, e: np.ndarray) -> np.ndarray:
    """E L^T for a lower factor."""
    return (e.astype(np.float64) @ factor.astype(np.float64).T).astype(np.float32)


def solve(factor: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The e of `times`."""
    solved = solve_triangular(factor.astype(np.float64), z.T.astype(np.float64), lower=True)
    return solved.T.astype(np.float32)
