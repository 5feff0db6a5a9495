"""A small n-gram language model over token ids, to measure how much texts resemble other texts.

It is an interpolated Kneser-Ney model with one discount per order (Kneser & Ney 1995; Chen &
Goodman 1998, section 4.1.6). Counting takes seconds, while a neural model would train for an hour.
Its perplexities compare texts with each other; they do not compare with those of other models.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from flaxae.measures.stats import Interval, bootstrap, ratio

ORDER = 3
START, EOS = 0, 1  # the padding's id marks the start of a text: it is never predicted


class _Level(NamedTuple):
    """Counts of one order, sorted by key; a key contains the ids of an n-gram as digits."""

    grams: Int[np.ndarray, " g"]
    counts: Float[np.ndarray, " g"]
    contexts: Int[np.ndarray, " c"]
    totals: Float[np.ndarray, " c"]  # sum of the counts after this context
    successors: Float[np.ndarray, " c"]  # number of different ids after this context
    discount: float


class NGram:
    """A language model P(id | the preceding ids of the text).

    Attributes:
        num_tokens: size of the vocabulary.
        order: n, the length of the longest n-grams.
    """

    def __init__(self, texts: Sequence[Sequence[int]], num_tokens: int, order: int = ORDER):
        """Count the n-grams of texts.

        Args:
            texts: ids of each text without padding; EOS is appended if it is missing.
            num_tokens: size of the vocabulary.
            order: n, reduced if the ids of n tokens do not fit into 63 bits.

        Raises:
            ValueError: if there is no text.
        """
        if not len(texts):
            raise ValueError("an n-gram model needs at least one text")
        self.num_tokens, self.base = num_tokens, int(num_tokens)
        self.order = min(order, 63 // max(self.base - 1, 1).bit_length())
        grams, counts = np.unique(self._keys(texts)[0], return_counts=True)
        self.levels: list[_Level] = []  # of order n first, then n - 1 ...
        for n in range(self.order, 0, -1):
            self.levels.append(self._level(grams, counts))
            # Lower orders count the different contexts of an n-gram, not its occurrences.
            grams, counts = np.unique(grams % self.base ** (n - 1), return_counts=True)

    def _keys(
        self, texts: Sequence[Sequence[int]]
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return the n-gram that ends at each token, and the row of that token."""
        rows = [[*row, EOS] if not len(row) or row[-1] != EOS else row for row in texts]
        padding = self.order - 1
        sizes = np.asarray([len(row) + padding for row in rows])
        flat = np.zeros(sizes.sum(), np.int64)
        row_of = np.repeat(np.arange(len(rows)), sizes)
        position = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        real = position >= padding
        flat[real] = np.concatenate([np.asarray(row, np.int64) for row in rows])
        keys = np.zeros(int(real.sum()), np.int64)
        ends = np.flatnonzero(real)
        for back in range(padding, -1, -1):
            keys = keys * self.base + flat[ends - back]
        return keys, row_of[real]

    def _level(self, grams: np.ndarray, counts: np.ndarray) -> _Level:
        """Return the tables of one order from its n-grams and their counts."""
        contexts, index, successors = np.unique(
            grams // self.base, return_inverse=True, return_counts=True
        )
        totals = np.bincount(index, weights=counts, minlength=len(contexts))
        once, twice = np.sum(counts == 1), np.sum(counts == 2)
        discount = float(once / (once + 2 * twice)) if once and twice else 0.5
        return _Level(
            grams, counts.astype(float), contexts, totals, successors.astype(float), discount
        )

    def _probabilities(self, keys: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return P(last id | ids before it) of n-grams of the highest order."""
        out = np.full(len(keys), 1 / self.num_tokens)
        for n, level in zip(range(1, self.order + 1), reversed(self.levels), strict=True):
            gram = keys % self.base**n
            counts = _look_up(level.grams, level.counts, gram)
            totals = _look_up(level.contexts, level.totals, gram // self.base)
            successors = _look_up(level.contexts, level.successors, gram // self.base)
            seen = totals > 0
            safe = np.where(seen, totals, 1.0)
            own = np.maximum(counts - level.discount, 0) / safe
            out = np.where(seen, own + level.discount * successors / safe * out, out)
        return out

    def probabilities(self, context: Sequence[int]) -> Float[np.ndarray, " V"]:
        """Return the probability of each id after the first ids of a text."""
        before = [START] * self.order + list(context)
        before = before[len(before) - (self.order - 1) :]
        key = 0
        for token in before:
            key = key * self.base + int(token)
        return self._probabilities(key * self.base + np.arange(self.num_tokens, dtype=np.int64))

    def score(self, texts: Sequence[Sequence[int]]) -> Float[np.ndarray, "B 2"]:
        """Return -log P in nats and the number of tokens, EOS included, of each text."""
        keys, rows = self._keys(texts)
        losses = -np.log(self._probabilities(keys))
        nats = np.bincount(rows, weights=losses, minlength=len(texts))
        return np.stack([nats, np.bincount(rows, minlength=len(texts))], axis=1)

    def perplexity(self, texts: Sequence[Sequence[int]], draws: int = 1000) -> Interval:
        """Return exp of the mean -log P per token, with its bootstrap interval over texts.

        All three are nan if there are no texts.
        """
        if not len(texts):
            return Interval(np.nan, np.nan, np.nan)
        return bootstrap(self.score(texts), lambda sums: np.exp(ratio(sums)), draws=draws)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the values of wanted keys among sorted keys; 0 for missing ones."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0.0)
