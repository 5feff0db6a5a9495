"""A prior that is a mixture of Gaussians."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.errors import ConfigError
from flaxae.text_autoencoder.priors.base import (
    Prior,
    codes_to_fit,
    paths_of_components,
    read,
    rows_of,
    write,
)
from flaxae.text_autoencoder.priors.gaussian import multiply, unmultiply


class GMMPrior(Prior):
    """A mixture of Gaussians.

    Unlike the other priors it is not a bijection. `to_noise` uses the component that is most
    responsible for a code, and only `from_noise` with that component inverts it. Without a
    component, `from_noise` chooses one by a hash of the noise, with the mixture's weights as
    probabilities: fresh noise then becomes exact samples, but close points of noise may become
    codes of different components.
    """

    kind = "gmm"

    def __init__(self, weights: Any, means: Any, factors: Any):
        """Set the components.

        Args:
            weights: probabilities, (K,).
            means: (K, D).
            factors: lower Cholesky factors (K, D, D), or standard deviations (K, D).
        """
        self.weights, self.means, self.factors = (
            np.asarray(x, np.float32) for x in (weights, means, factors)
        )
        self.dim = self.means.shape[1]

    @classmethod
    def fit(
        cls, codes: Float[np.ndarray, "n D"], components: int = 10, seed: int = 0
    ) -> "GMMPrior":
        """Fit a mixture by expectation maximisation (scikit-learn).

        Covariances are full if there are at least ten codes per row of the covariances, otherwise
        diagonal. The regularisation added to their diagonals decreases with the number of codes; at
        ten codes per row it is a hundredth of the codes' mean variance.

        Args:
            codes: codes of training texts.
            components: K.
            seed: seed of the initialisation.

        Raises:
            ConfigError: if there are fewer than two codes per component, whose variance would be
                the regularisation alone, or as in `codes_to_fit`.
        """
        from sklearn.mixture import GaussianMixture  # slow to import

        codes = codes_to_fit(codes)
        n, dim = codes.shape
        if n < 2 * components:
            raise ConfigError(
                f"{n} codes are too few for a mixture of {components}, which needs at least "
                f"{2 * components}: encode more"
            )
        full = n >= 10 * components * dim
        share = float(np.clip(0.1 * components * dim / n, 1e-4, 0.1))
        mixture = GaussianMixture(
            components,
            covariance_type="full" if full else "diag",
            reg_covar=share * float(codes.var(0).mean()),
            random_state=seed,
        ).fit(codes)
        covariances: Any = mixture.covariances_
        factors = np.linalg.cholesky(covariances) if full else np.sqrt(covariances)
        return cls(mixture.weights_, mixture.means_, factors)

    def component(self, z: Any) -> Int[np.ndarray, " n"]:
        """Return the most responsible component of each code."""
        z = rows_of(z, self.dim)
        scores = []
        for k, factor in enumerate(self.factors):
            e = self._inverse(z, k).astype(np.float64)
            spread = np.log(np.diag(factor) if factor.ndim == 2 else factor).sum()
            scores.append(np.log(max(self.weights[k], 1e-30)) - spread - 0.5 * (e * e).sum(1))
        return np.argmax(scores, axis=0)

    def to_noise(self, z: Any) -> Float[np.ndarray, "n D"]:
        """Whiten each code by its most responsible component."""
        z = rows_of(z, self.dim)
        return self._each(z, self.component(z), self._inverse)

    def from_noise(self, e: Any, component: Any = None) -> Float[np.ndarray, "n D"]:
        """Return the codes of noise.

        Args:
            e: the noise.
            component: one per row (n,), or one for all rows; None: chosen by a hash of the noise.
        """
        e = rows_of(e, self.dim)
        if component is None:
            share = np.asarray([zlib.crc32(row.tobytes()) / 2**32 for row in e])
            edges = np.cumsum(self.weights.astype(np.float64))
            component = np.searchsorted(edges / edges[-1], share, side="right")
        return self._each(e, np.broadcast_to(component, len(e)), self._forward)

    def _paths(
        self,
        a: Float[np.ndarray, "n D"],
        b: Float[np.ndarray, "n D"],
        fractions: Float[np.ndarray, " k"],
    ) -> Float[np.ndarray, "m D"]:
        """Return paths through the components of both ends (see `paths_of_components`)."""
        return paths_of_components(self, a, b, fractions)

    def _each(
        self, rows: np.ndarray, component: np.ndarray, call: Callable[[np.ndarray, int], np.ndarray]
    ) -> np.ndarray:
        """Map each row by its component."""
        out = np.empty_like(rows)
        for k in np.unique(component):
            out[component == k] = call(rows[component == k], k)
        return out

    def _forward(self, e: np.ndarray, k: int) -> np.ndarray:
        factor = self.factors[k]
        scaled = multiply(factor, e) if factor.ndim == 2 else factor[None] * e
        return scaled + self.means[k][None]

    def _inverse(self, z: np.ndarray, k: int) -> np.ndarray:
        factor, z = self.factors[k], z - self.means[k][None]
        return unmultiply(factor, z) if factor.ndim == 2 else z / factor[None]

    def save(self, folder: str | Path) -> None:
        """Write the prior into a folder."""
        arrays = {"weights": self.weights, "means": self.means, "factors": self.factors}
        write(folder, {"kind": self.kind}, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> "GMMPrior":
        """Return the prior of a folder."""
        _, arrays = read(folder)
        return cls(arrays["weights"], arrays["means"], arrays["factors"])
