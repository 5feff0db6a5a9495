"""A small n-gram language model over token ids, to measure how much texts resemble other texts.

It is an interpolated Kneser-Ney model (Kneser & Ney 1995) with one discount per order (Chen &
Goodman 1998, section 4.1.6) or with three ("modified", section 4.1.7). Counting takes seconds,
while a neural model would train for an hour. Its perplexities over tokens compare texts with each
other; they do not compare with those of other models. Over bytes its bits per byte do.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from flaxae.measures.stats import Interval, bootstrap, ratio

ORDER = 3
Ids = Sequence[int] | Int[np.ndarray, " n"]
START, EOS = 0, 1  # the padding's id marks the start of a text: it is never predicted
FALLBACK = (0.5, 1.0, 1.5)  # modified discounts where the counts of counts give none, as in KenLM


class _Counts(NamedTuple):
    """Counts of one order's n-grams, and what is computed from them.

    Attributes:
        counts: of each n-gram.
        totals: sum of the counts after each context.
        discounts: discount of the counts 1, 2, ... and of all higher ones.
        masses: sum of the discounts after each context.
    """

    counts: Float[np.ndarray, " g"]
    totals: Float[np.ndarray, " c"]
    discounts: tuple[float, ...]
    masses: Float[np.ndarray, " c"]


class _Level(NamedTuple):
    """Tables of one order, sorted by key; a key contains the ids of an n-gram as digits.

    Attributes:
        grams: keys of the n-grams.
        contexts: keys of the n-grams' first n - 1 ids.
        occurrences: number of times that an n-gram occurs, for the highest order of a model.
        continuations: number of different ids before it, for the orders below.
    """

    grams: Int[np.ndarray, " g"]
    contexts: Int[np.ndarray, " c"]
    occurrences: _Counts
    continuations: _Counts


class NGram:
    """A language model P(id | the preceding ids of the text).

    Attributes:
        num_tokens: size of the vocabulary.
        order: n, the length of the longest n-grams.
    """

    def __init__(
        self,
        texts: Sequence[Ids],
        num_tokens: int,
        order: int = ORDER,
        modified: bool = False,
        ends: bool = True,
    ):
        """Count the n-grams of texts.

        Args:
            texts: ids of each text without padding.
            num_tokens: size of the vocabulary.
            order: n, reduced if the ids of n tokens do not fit into 63 bits.
            modified: whether each order has three discounts, or one.
            ends: whether texts end with EOS, which is appended if it is missing; False for bytes.

        Raises:
            ValueError: if there is no text, or no id in them.
        """
        if not len(texts):
            raise ValueError("an n-gram model needs at least one text")
        self.num_tokens, self.base = num_tokens, int(num_tokens)
        self.order = min(order, 63 // max(self.base - 1, 1).bit_length())
        self.modified, self.ends = modified, ends
        grams, occurrences = np.unique(self._keys(texts)[0], return_counts=True)
        if not len(grams):
            raise ValueError("an n-gram model needs at least one id")
        continuations = occurrences  # the highest order has no other counts
        self.levels: list[_Level] = []  # of order n first, then n - 1 ...
        for n in range(self.order, 0, -1):
            self.levels.append(self._level(grams, occurrences, continuations))
            # Lower orders count the different contexts of an n-gram, not its occurrences.
            grams, index, continuations = np.unique(
                grams % self.base ** (n - 1), return_inverse=True, return_counts=True
            )
            occurrences = np.bincount(index, weights=occurrences, minlength=len(grams))

    def _keys(self, texts: Sequence[Ids]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return the n-gram that ends at each token, and the row of that token."""
        rows = list(texts)
        if self.ends:
            rows = [[*row, EOS] if not len(row) or row[-1] != EOS else row for row in rows]
        padding, sizes = self.order - 1, np.asarray([len(row) for row in rows])
        starts = np.cumsum(sizes + padding) - sizes - padding
        real = np.ones(int(sizes.sum()) + padding * len(rows), bool)
        real[(starts[:, None] + np.arange(padding)).ravel()] = False
        flat = np.full(len(real), START, np.int64)
        flat[real] = np.concatenate([np.asarray(row, np.int64) for row in rows])
        count = len(flat) - padding
        keys = flat[:count].copy()  # of the n-gram that ends `padding` places later
        for i in range(1, self.order):
            keys *= self.base
            keys += flat[i : i + count]
        return keys[real[padding:]], np.repeat(np.arange(len(rows)), sizes)

    def _level(
        self, grams: np.ndarray, occurrences: np.ndarray, continuations: np.ndarray
    ) -> _Level:
        """Return the tables of one order from its sorted n-grams and their counts."""
        contexts, first = np.unique(grams // self.base, return_index=True)
        tables = [self._counts(x, first) for x in (occurrences, continuations)]
        return _Level(grams, contexts, *tables)

    def _counts(self, counts: np.ndarray, first: np.ndarray) -> _Counts:
        """Return counts with totals and discounts of contexts, each of which begins at `first`."""
        discounts = (_modified if self.modified else _absolute)(counts)
        kind = np.minimum(counts, len(discounts))
        masses = np.zeros(len(first))
        for i, discount in enumerate(discounts, 1):
            masses += discount * np.add.reduceat((kind == i).astype(float), first)
        totals = np.add.reduceat(counts.astype(float), first)
        return _Counts(counts.astype(float), totals, discounts, masses)

    def _orders(self, keys: Int[np.ndarray, " n"]) -> Iterator[Float[np.ndarray, " n"]]:
        """Yield P(last id | ids before it) of models of the orders 1, 2 ... n.

        Args:
            keys: n-grams of the highest order.
        """
        lower = np.full(len(keys), 1 / self.num_tokens)
        for n, level in zip(range(1, self.order + 1), reversed(self.levels), strict=True):
            gram = keys % self.base**n
            order = np.argsort(gram)  # a sorted search is faster: its steps stay in the cache
            at, seen = np.empty_like(gram), np.empty_like(gram)
            at[order] = _find(level.grams, gram[order])
            seen[order] = _find(level.contexts, gram[order] // self.base)
            yield _interpolate(level.occurrences, at, seen, lower)
            lower = _interpolate(level.continuations, at, seen, lower)

    def _probabilities(self, keys: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return P(last id | ids before it) of n-grams of the highest order."""
        return list(self._orders(keys))[-1]

    def probabilities(self, context: Sequence[int]) -> Float[np.ndarray, " V"]:
        """Return the probability of each id after the first ids of a text."""
        before = [START] * self.order + list(context)
        before = before[len(before) - (self.order - 1) :]
        key = 0
        for token in before:
            key = key * self.base + int(token)
        return self._probabilities(key * self.base + np.arange(self.num_tokens, dtype=np.int64))

    def score(self, texts: Sequence[Ids]) -> Float[np.ndarray, "B 2"]:
        """Return -log P in nats and the number of tokens, EOS included, of each text."""
        keys, rows = self._keys(texts)
        losses = -np.log(self._probabilities(keys))
        nats = np.bincount(rows, weights=losses, minlength=len(texts))
        return np.stack([nats, np.bincount(rows, minlength=len(texts))], axis=1)

    def bits(self, text: Ids) -> Float[np.ndarray, " n"]:
        """Return bits per id of a text by the models of the orders 1, 2 ... n.

        The models of lower orders are those of their own: their highest order counts occurrences.

        Args:
            text: at least one id; START precedes it.
        """
        keys = self._keys([text])[0]
        return np.asarray([-np.log2(p).mean() for p in self._orders(keys)])

    def perplexity(self, texts: Sequence[Ids], draws: int = 1000) -> Interval:
        """Return exp of the mean -log P per token, with its bootstrap interval over texts.

        All three are nan if there are no texts.
        """
        if not len(texts):
            return Interval(np.nan, np.nan, np.nan)
        return bootstrap(self.score(texts), lambda sums: np.exp(ratio(sums)), draws=draws)


def _absolute(counts: np.ndarray) -> tuple[float, ...]:
    """Return the discount of all counts of an order."""
    once, twice = np.sum(counts == 1), np.sum(counts == 2)
    return (float(once / (once + 2 * twice)) if once and twice else 0.5,)


def _modified(counts: np.ndarray) -> tuple[float, ...]:
    """Return the discounts of the counts 1, 2, and 3 and more of an order."""
    number = [int(np.sum(counts == i)) for i in range(1, 5)]
    if not all(number):
        return FALLBACK
    y = number[0] / (number[0] + 2 * number[1])
    out = tuple(i - (i + 1) * y * number[i] / number[i - 1] for i in (1, 2, 3))
    return out if all(0 < discount <= i for i, discount in enumerate(out, 1)) else FALLBACK


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the index of each wanted key among sorted keys; -1 for missing ones."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def _interpolate(
    table: _Counts, at: np.ndarray, seen: np.ndarray, lower: np.ndarray
) -> Float[np.ndarray, " n"]:
    """Return the probabilities of one order.

    Args:
        table: its counts.
        at: index of each n-gram in the table, -1 if it is not there.
        seen: index of its context, -1 if it is not there.
        lower: its probability by the order below.
    """
    counts = np.where(at >= 0, table.counts[at], 0.0)
    known = seen >= 0
    totals = np.where(known, table.totals[seen], 1.0)
    masses = np.where(known, table.masses[seen], 1.0)
    kind = np.minimum(counts, len(table.discounts)).astype(int)
    own = np.maximum(counts - np.asarray([0.0, *table.discounts])[kind], 0) / totals
    return own + masses / totals * lower
