"""A mixture of Gaussians as a prior."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.errors import ConfigError
from flaxae.text_autoencoder.priors.priors import (
    Prior,
    fitted,
    read,
    rows_of,
    slerps,
    solve,
    times,
    write,
)


class GMMPrior(Prior):
    """A mixture of Gaussians.

    It is no global bijection. `to_noise` goes through the component that is most responsible for a
    code, and only `from_noise` with that same component undoes it. Without one, `from_noise` takes
    a component by the weights, drawn from a hash of the noise: right for fresh noise, which so
    becomes exact samples, but neighbours in noise may then be in different components.
    """

    kind = "gmm"

    def __init__(self, weights: Any, means: Any, factors: Any):
        """Takes the components.

        Args:
            weights: (K,), adding up to 1.
            means: (K, D).
            factors: (K, D, D) lower Cholesky factors, or (K, D) standard deviations.
        """
        self.weights, self.means, self.factors = (
            np.asarray(x, np.float32) for x in (weights, means, factors)
        )
        self.dim = self.means.shape[1]

    @classmethod
    def fit(
        cls, codes: Float[np.ndarray, "n D"], components: int = 10, seed: int = 0
    ) -> "GMMPrior":
        """Expectation maximisation, by scikit-learn.

        Full covariances where there are ten codes for each of their rows, else diagonal ones. What
        is added to the diagonal falls with the number of codes: a hundredth of the codes' mean
        variance at ten codes a row.
        """
        from sklearn.mixture import GaussianMixture  # slow to import

        codes = fitted(codes)
        n, dim = codes.shape
        if n < components:
            raise ConfigError(f"{n} codes are too few for a mixture of {components}: encode more")
        full = n >= 10 * components * dim
        share = float(np.clip(0.1 * components * dim / n, 1e-4, 0.1))
        mixture = GaussianMixture(
            components,
            covariance_type="full" if full else "diag",
            reg_covar=share * float(codes.var(0).mean()),
            random_state=seed,
        ).fit(codes)
        found: Any = mixture.covariances_
        factors = np.linalg.cholesky(found) if full else np.sqrt(found)
        return cls(mixture.weights_, mixture.means_, factors)

    def component(self, z: Any) -> Int[np.ndarray, " n"]:
        """The most responsible component of each code."""
        z = rows_of(z, self.dim)
        scores = []
        for k, factor in enumerate(self.factors):
            e = self._inverse(z, k).astype(np.float64)
            spread = np.log(np.diag(factor) if factor.ndim == 2 else factor).sum()
            scores.append(np.log(max(self.weights[k], 1e-30)) - spread - 0.5 * (e * e).sum(1))
        return np.argmax(scores, axis=0)

    def to_noise(self, z: Any) -> Float[np.ndarray, "n D"]:
        z = rows_of(z, self.dim)
        return self._each(z, self.component(z), self._inverse)

    def from_noise(self, e: Any, component: Any = None) -> Float[np.ndarray, "n D"]:
        """The codes of noise.

        Args:
            e: the noise.
            component: (n,) or one for all rows; None: drawn by the weights.
        """
        e = rows_of(e, self.dim)
        if component is None:
            share = np.asarray([zlib.crc32(row.tobytes()) / 2**32 for row in e])
            edges = np.cumsum(self.weights.astype(np.float64))
            component = np.searchsorted(edges / edges[-1], share, side="right")
        return self._each(e, np.broadcast_to(component, len(e)), self._forward)

    def _ways(self, a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
        """Through the components of both ends: their two codes of each noise are mixed linearly, so
        that both ends are met and nothing jumps. Where the components differ the way leads over the
        gap between them, as every continuous way does.
        """
        noise = slerps(self.to_noise(a), self.to_noise(b), steps)
        first, last = (
            self.from_noise(noise, np.repeat(self.component(ends), steps)) for ends in (a, b)
        )
        share = np.tile(np.linspace(0, 1, steps, dtype=np.float32), len(a))[:, None]
        return (1 - share) * first + share * last

    def _each(self, rows: np.ndarray, component: np.ndarray, call: Any) -> np.ndarray:
        """Rows mapped by their components."""
        out = np.empty_like(rows)
        for k in np.unique(component):
            out[component == k] = call(rows[component == k], k)
        return out

    def _forward(self, e: np.ndarray, k: int) -> np.ndarray:
        factor = self.factors[k]
        return (times(factor, e) if factor.ndim == 2 else factor[None] * e) + self.means[k][None]

    def _inverse(self, z: np.ndarray, k: int) -> np.ndarray:
        factor, z = self.factors[k], z - self.means[k][None]
        return solve(factor, z) if factor.ndim == 2 else z / factor[None]

    def save(self, folder: str | Path) -> None:
        arrays = {"weights": self.weights, "means": self.means, "factors": self.factors}
        write(folder, {"kind": self.kind}, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> "GMMPrior":
        _, arrays = read(folder)
        return cls(arrays["weights"], arrays["means"], arrays["factors"])
