"""Histograms of activations whose range is not known in advance."""

import numpy as np
from jaxtyping import Float, Int

BINS = 32
_UNKNOWN = -10_000  # exponent of a feature that has not been active


class Histograms:
    """Exact counts in bins of equal width from 0 to a power of two above the largest activation.

    Where a larger activation comes, the range is doubled and neighbouring bins are added, so that
    no activation is kept.

    Args:
        features: number of features.

    Attributes:
        counts: (F, BINS).
        exponents: the range of each feature is 0 to 2 ** exponent, (F,).
    """

    def __init__(self, features: int):
        self.counts = np.zeros((features, BINS), np.int64)
        self.exponents = np.full(features, _UNKNOWN, np.int32)

    def add(self, values: Float[np.ndarray, "M"], features: Int[np.ndarray, "M"]) -> None:
        """Count positive activations.

        Args:
            values: the activations.
            features: the feature of each.
        """
        if not len(values):
            return
        needed = np.full(len(self.exponents), _UNKNOWN, np.int32)
        # frexp: value = fraction * 2 ** exponent with a fraction below 1.
        np.maximum.at(needed, features, np.frexp(values)[1])
        self._widen(needed)
        scaled = np.ldexp(values.astype(np.float64), -self.exponents[features])
        places = features.astype(np.int64) * BINS + (scaled * BINS).astype(np.int64)
        new = np.bincount(places, minlength=self.counts.size)
        self.counts += new.reshape(self.counts.shape)

    def _widen(self, needed: Int[np.ndarray, "F"]) -> None:
        fresh = self.exponents == _UNKNOWN
        self.exponents[fresh] = needed[fresh]
        while True:
            low = np.nonzero(self.exponents < needed)[0]
            if not len(low):
                return
            pairs = self.counts[low].reshape(len(low), BINS // 2, 2).sum(-1)
            self.counts[low] = np.pad(pairs, ((0, 0), (0, BINS // 2)))
            self.exponents[low] += 1

    def of(self, feature: int) -> tuple[list[int], float]:
        """Return a feature's counts, without empty bins at the end, and the width of a bin."""
        counts = self.counts[feature]
        used = np.nonzero(counts)[0]
        if not len(used):
            return [], 0.0
        width = float(np.ldexp(1.0, int(self.exponents[feature]))) / BINS
        return counts[: used[-1] + 1].tolist(), width
