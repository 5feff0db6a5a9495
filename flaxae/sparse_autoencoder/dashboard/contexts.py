"""The contexts with the largest keys of each feature, kept while a text is read."""

import numpy as np
from jaxtyping import Float, Int

BEFORE, AFTER = 20, 12  # tokens around the peak of a context
WINDOW = BEFORE + 1 + AFTER


class KeptContexts:
    """The n contexts with the largest keys of each feature; memory does not grow with the text.

    A context is a part of a row around its largest activation. A row gives at most one per feature.

    Args:
        features: number of features.
        count: contexts per feature.

    Attributes:
        keys: (F, K), in descending order; 0 where there is no context.
        rows: number of the row, (F, K).
        peaks: position of the largest activation in the row, (F, K).
        windows: activations around it, 0 beyond the row, (F, K, WINDOW).
    """

    def __init__(self, features: int, count: int):
        self.keys = np.zeros((features, count), np.float32)
        self.rows = np.zeros((features, count), np.int32)
        self.peaks = np.zeros((features, count), np.int32)
        self.windows = np.zeros((features, count, WINDOW), np.float32)

    def offer(
        self,
        keys: Float[np.ndarray, "N F"],
        rows: Int[np.ndarray, "N"],
        peaks: Int[np.ndarray, "N F"],
        latents: Float[np.ndarray, "N S F"],
    ) -> None:
        """Keep those of some rows that are among the largest; of equal ones the first.

        Args:
            keys: 0 where a feature is not active in a row.
            rows: numbers of the rows.
            peaks: position of each feature's largest activation.
            latents: activations of all tokens of the rows.
        """
        count = self.keys.shape[1]
        least = self.keys[:, -1] if count else np.inf
        changed = np.nonzero(keys.max(0) > least)[0]  # features
        if not len(changed):
            return
        both = np.concatenate([self.keys[changed], keys[:, changed].T], axis=1)  # (C, K + N)
        order = np.argsort(-both, axis=1, kind="stable")[:, :count]
        self.keys[changed] = np.take_along_axis(both, order, axis=1)
        old = np.minimum(order, count - 1)
        moved = [
            np.take_along_axis(self.rows[changed], old, axis=1),
            np.take_along_axis(self.peaks[changed], old, axis=1),
            np.take_along_axis(self.windows[changed], old[:, :, None], axis=1),
        ]
        place, slot = np.nonzero((order >= count) & (self.keys[changed] > 0))
        row, feature = order[place, slot] - count, changed[place]
        peak = peaks[row, feature]
        moved[0][place, slot] = rows[row]
        moved[1][place, slot] = peak
        moved[2][place, slot] = windows_of(latents, row, peak, feature)
        self.rows[changed], self.peaks[changed], self.windows[changed] = moved


def windows_of(
    latents: Float[np.ndarray, "N S F"],
    row: Int[np.ndarray, "M"],
    peak: Int[np.ndarray, "M"],
    feature: Int[np.ndarray, "M"],
) -> Float[np.ndarray, "M T"]:
    """Return the activations around peaks; 0 beyond the ends of a row."""
    length = latents.shape[1]
    at = peak[:, None] + np.arange(-BEFORE, AFTER + 1)[None]
    inside = (at >= 0) & (at < length)
    found = latents[row[:, None], np.clip(at, 0, length - 1), feature[:, None]]
    return np.where(inside, found, 0)
