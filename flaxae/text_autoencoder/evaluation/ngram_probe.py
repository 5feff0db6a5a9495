"""A linear classifier of texts by their words and pairs of words, trained on real texts."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from flaxae.errors import require
from flaxae.measures import linear_probe
from flaxae.measures.stats import Interval, bootstrap

FEATURES, LEAST = 2000, 3  # most frequent words and pairs, in at least this many texts
STRENGTHS = np.asarray([1.0, 3.0, 10.0], np.float32)  # of the penalty
MAX_STEPS = 60  # of L-BFGS; verdicts need no exact minimum
HELD_BACK = 5  # one training text of this many chooses the strength
MARKING = 0.1  # share of the known words, those of the largest weights, that mark a class
_WORD = re.compile(r"\w+(?:'\w+)?")


def words(text: str) -> list[str]:
    """Return a text's words in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


class NgramProbe:
    """A logistic regression on the presence of words and pairs of neighbouring words.

    The weight of its penalty is chosen on training texts that are left out of a first fit.

    Args:
        texts: training texts.
        labels: their classes.

    Attributes:
        strength: weight of the penalty.
        marking: the known words with the largest weights of either sign, one in ten.

    Raises:
        ConfigError: if the texts have too few words in common.
    """

    def __init__(self, texts: Sequence[str], labels: Bool[np.ndarray, " N"]):
        counts = Counter(gram for text in texts for gram in _grams(text))
        kept = [gram for gram, n in counts.most_common(FEATURES) if n >= LEAST]
        require(
            bool(kept), f"{len(texts)} training texts have no word in common: give more of them"
        )
        self._index = {gram: i for i, gram in enumerate(kept)}
        x, labels = self.features(texts)[None], np.asarray(labels, bool)  # (1, N, D)
        fitted = np.random.default_rng(0).permutation(len(labels)) % HELD_BACK > 0
        first, probes = (
            linear_probe.fit(
                x,
                labels,
                STRENGTHS,
                weights=rows.astype(np.float32),
                standardise=False,
                max_steps=MAX_STEPS,
            )
            for rows in (fitted, np.ones_like(fitted))
        )
        right = (first.scores(x)[0] > 0) == labels[None]  # (R, N)
        best = int(right[:, ~fitted].mean(1).argmax())
        self.strength = float(STRENGTHS[best])
        self._weights, self._bias = probes.weights[0, best], float(probes.bias[0, best])
        single = [gram for gram in kept if " " not in gram]
        weights = np.abs(self._weights[[self._index[gram] for gram in single]])
        most = np.argsort(-weights, kind="stable")[: max(1, round(MARKING * len(single)))]
        self.marking = frozenset(single[i] for i in most)

    def features(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Return 1 for each known word and pair that a text contains, else 0."""
        out = np.zeros((len(texts), len(self._index)), np.float32)
        for row, text in zip(out, texts, strict=True):
            row[[self._index[gram] for gram in _grams(text) if gram in self._index]] = 1
        return out

    def verdicts(self, texts: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """Return the predicted class of each text."""
        return self.features(texts) @ self._weights + self._bias > 0

    def accuracy(
        self, texts: Sequence[str], labels: Bool[np.ndarray, " N"], draws: int = 1000
    ) -> Interval:
        """Return the accuracy on texts, with its interval.

        Args:
            texts: held-out texts.
            labels: their classes.
            draws: resamples of the bootstrap.
        """
        return bootstrap(self.verdicts(texts) == np.asarray(labels, bool), draws=draws)


def _grams(text: str) -> set[str]:
    """Return a text's words and pairs of neighbouring words."""
    found = words(text)
    return {*found, *(f"{a} {b}" for a, b in zip(found, found[1:], strict=False))}
