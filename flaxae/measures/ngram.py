"""A small n-gram language model over token ids: how much a text looks like other texts.

Interpolated Kneser-Ney with one discount an order (Kneser & Ney 1995; Chen & Goodman 1998,
section 4.1.6). It needs seconds where a neural model would need an hour; its perplexities compare
texts with each other, and are not those of any other model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from flaxae.measures.stats import Interval, bootstrap, ratio

ORDER = 3
START, EOS = 0, 1  # the padding's id starts a text: it is never predicted


class _Level(NamedTuple):
    """The tables of one order, sorted by key; a key is its n-gram's ids as digits."""

    grams: Int[np.ndarray, " g"]
    counts: Float[np.ndarray, " g"]
    contexts: Int[np.ndarray, " c"]
    totals: Float[np.ndarray, " c"]  # sum of the counts after this context
    kinds: Float[np.ndarray, " c"]  # number of different ids after it
    discount: float


class NGram:
    """P(id | the ids before it in its text)."""

    def __init__(self, texts: Sequence[Sequence[int]], num_tokens: int, order: int = ORDER):
        """Counts the n-grams of some texts.

        Args:
            texts: ids of each text, without padding; EOS is put at the end where it is missing.
            num_tokens: size of the vocabulary.
            order: n; as many as fit into 63 bits are kept.

        Raises:
            ValueError: there is no text.
        """
        if not len(texts):
            raise ValueError("a language model needs texts")
        self.num_tokens, self.base = num_tokens, int(num_tokens)
        self.order = min(order, 63 // max(self.base - 1, 1).bit_length())
        grams, counts = np.unique(self._keys(texts)[0], return_counts=True)
        self.levels: list[_Level] = []  # of order n first, then n - 1 ...
        for n in range(self.order, 0, -1):
            self.levels.append(self._level(grams, counts))
            # Lower orders count in how many kinds of context an n-gram stood, not how often.
            grams, counts = np.unique(grams % self.base ** (n - 1), return_counts=True)

    def _keys(
        self, texts: Sequence[Sequence[int]]
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The n-gram that ends at each token, and the row of that token."""
        rows = [[*row, EOS] if not len(row) or row[-1] != EOS else row for row in texts]
        padding = self.order - 1
        sizes = np.asarray([len(row) + padding for row in rows])
        flat = np.zeros(sizes.sum(), np.int64)
        row_of = np.repeat(np.arange(len(rows)), sizes)
        place = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        real = place >= padding
        flat[real] = np.concatenate([np.asarray(row, np.int64) for row in rows])
        keys = np.zeros(int(real.sum()), np.int64)
        ends = np.flatnonzero(real)
        for back in range(padding, -1, -1):
            keys = keys * self.base + flat[ends - back]
        return keys, row_of[real]

    def _level(self, grams: np.ndarray, counts: np.ndarray) -> _Level:
        contexts, index, kinds = np.unique(
            grams // self.base, return_inverse=True, return_counts=True
        )
        totals = np.bincount(index, weights=counts, minlength=len(contexts))
        once, twice = np.sum(counts == 1), np.sum(counts == 2)
        discount = float(once / (once + 2 * twice)) if once and twice else 0.5
        return _Level(grams, counts.astype(float), contexts, totals, kinds.astype(float), discount)

    def _probabilities(self, keys: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        out = np.full(len(keys), 1 / self.num_tokens)
        for n, level in zip(range(1, self.order + 1), reversed(self.levels), strict=True):
            gram = keys % self.base**n
            counts = _look_up(level.grams, level.counts, gram)
            totals = _look_up(level.contexts, level.totals, gram // self.base)
            kinds = _look_up(level.contexts, level.kinds, gram // self.base)
            seen = totals > 0
            safe = np.where(seen, totals, 1.0)
            own = np.maximum(counts - level.discount, 0) / safe
            out = np.where(seen, own + level.discount * kinds / safe * out, out)
        return out

    def probabilities(self, context: Sequence[int]) -> Float[np.ndarray, " V"]:
        """P of each id after the ids of a text's beginning."""
        before = [START] * self.order + list(context)
        before = before[len(before) - (self.order - 1) :]
        key = 0
        for token in before:
            key = key * self.base + int(token)
        return self._probabilities(key * self.base + np.arange(self.num_tokens, dtype=np.int64))

    def score(self, texts: Sequence[Sequence[int]]) -> Float[np.ndarray, "B 2"]:
        """-log P in nats and the number of tokens (EOS among them) of each text."""
        keys, rows = self._keys(texts)
        losses = -np.log(self._probabilities(keys))
        nats = np.bincount(rows, weights=losses, minlength=len(texts))
        return np.stack([nats, np.bincount(rows, minlength=len(texts))], axis=1)

    def perplexity(self, texts: Sequence[Sequence[int]], draws: int = 1000) -> Interval:
        """Exp of the mean -log P of a token, with its interval over texts."""
        return bootstrap(self.score(texts), lambda sums: np.exp(ratio(sums)), draws=draws)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values of sorted keys; 0 where a key is missing."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0.0)
