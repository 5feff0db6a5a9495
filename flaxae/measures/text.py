"""Measures of texts: BLEU, chrF, edit distance, diversity, validity as Python, step lengths.

BLEU and chrF are computed from sums over texts, so that they can be resampled; tests show that they
equal sacreBLEU's values. sacrebleu and rapidfuzz are imported on first use: a training run needs
neither.
"""

import ast
import functools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

WORD_ORDER, CHAR_ORDER, BETA = 4, 6, 2
PYTHON_SHARE = 0.3  # a corpus counts as Python if more than this share of its texts parses


# Validity


def is_valid(text: str) -> bool:
    """Return True if a text alone parses as Python."""
    if not text.strip():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return False
    return True


def valid_mask(texts: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Return `is_valid` of each text."""
    return np.asarray([is_valid(text) for text in texts], bool)


def validity(texts: Sequence[str]) -> float:
    """Return the share of texts that parse as Python; nan if there are none."""
    return float(valid_mask(texts).mean()) if len(texts) else float("nan")


def is_python(texts: Sequence[str]) -> bool:
    """Return True if enough of the first 500 texts are valid Python."""
    return bool(len(texts)) and validity(texts[:500]) > PYTHON_SHARE


# Edit distance


def edit_distance(a: str, b: str) -> int:
    """Return the Levenshtein distance in characters."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(a, b)


def edit_similarity(
    hypotheses: Sequence[str], references: Sequence[str]
) -> Float[np.ndarray, " n"]:
    """Return 1 - Levenshtein distance / length of the longer text; 1 for two empty texts."""
    from rapidfuzz.distance import Levenshtein

    pairs = zip(hypotheses, references, strict=True)
    return np.asarray([Levenshtein.normalized_similarity(a, b) for a, b in pairs])


class PathLengths(NamedTuple):
    """Edit distances along a path of texts, for example of an interpolation.

    Attributes:
        direct: distance between the first and the last text.
        total: sum of the distances between neighbours.
        largest: largest distance between neighbours.
        distinct: number of different texts.
        texts: number of texts.
    """

    direct: int
    total: int
    largest: int
    distinct: int
    texts: int

    @property
    def ratio(self) -> float:
        """Direct over total distance: 1 means no detours; 0 if all texts are equal."""
        return self.direct / self.total if self.total else 0.0

    @property
    def largest_share(self) -> float:
        """Largest step over total distance: 1 means a single jump; 0 if all texts are equal."""
        return self.largest / self.total if self.total else 0.0


def path_lengths(texts: Sequence[str]) -> PathLengths:
    """Measure a path of texts, ends included."""
    steps = [edit_distance(a, b) for a, b in zip(texts, texts[1:], strict=False)]
    direct = edit_distance(texts[0], texts[-1])
    return PathLengths(direct, sum(steps), max(steps, default=0), len(set(texts)), len(texts))


# BLEU and chrF


@functools.cache
def _word_tokenizer() -> Callable[[str], str]:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU().tokenizer  # "13a", sacreBLEU's default


def words(text: str) -> list[str]:
    """Split a text into words with sacreBLEU's default tokenizer."""
    return _word_tokenizer()(text.rstrip()).split()


def _ngrams(items: Sequence[Any], n: int) -> list[tuple]:
    return list(zip(*(items[i:] for i in range(n)), strict=False))


def bleu_rows(hypotheses: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, "n 10"]:
    """Return the counts that corpus BLEU sums, one row per text.

    Args:
        hypotheses: texts to rate, (n,).
        references: one reference per text, (n,).

    Returns:
        Length of hypothesis and reference in words, then matches of each n-gram order, then
        n-grams of the hypothesis of each order.
    """
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        ours, theirs = words(hypothesis), words(reference)
        matches, totals = [], []
        for n in range(1, WORD_ORDER + 1):
            ngrams = Counter(_ngrams(ours, n))
            matches.append((ngrams & Counter(_ngrams(theirs, n))).total())
            totals.append(ngrams.total())
        rows.append([len(ours), len(theirs), *matches, *totals])
    return np.asarray(rows, float).reshape(-1, 2 + 2 * WORD_ORDER)


def bleu(sums: Float[np.ndarray, "... 10"]) -> Float[np.ndarray, "..."]:
    """Return BLEU in percent (Papineni et al. 2002), with sacreBLEU's default smoothing ("exp").

    Args:
        sums: sums of `bleu_rows`.
    """
    length, reference_length = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + WORD_ORDER], sums[..., 2 + WORD_ORDER :]
    missed = matches == 0
    # The k-th order without a match counts as 1 / 2^k matches.
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), matches)
    precision = smoothed / np.maximum(totals, 1)
    with np.errstate(divide="ignore", over="ignore"):
        short = length < reference_length
        brevity = np.where(short, np.exp(1 - reference_length / np.maximum(length, 1e-9)), 1.0)
        score = 100 * brevity * np.exp(np.log(precision).mean(-1))
    return np.where((totals > 0).all(-1) & (matches > 0).any(-1), score, 0.0)


def self_bleu_rows(texts: Sequence[str]) -> Float[np.ndarray, "n 10"]:
    """Return `bleu_rows` of each text against all others (Zhu et al. 2018).

    A high BLEU of these rows means that the texts resemble each other. One pass suffices: the
    largest count of an n-gram in the other texts is the largest count overall, or the second
    largest if the text itself has the largest.
    """
    tokenized = [words(text) for text in texts]
    lengths = np.asarray([len(x) for x in tokenized])
    orders = range(1, WORD_ORDER + 1)
    counters = [Counter(g for n in orders for g in _ngrams(x, n)) for x in tokenized]
    top: dict[tuple, tuple[int, int]] = {}  # n-gram -> its largest and second largest count
    for counter in counters:
        for ngram, count in counter.items():
            first, second = top.get(ngram, (0, 0))
            top[ngram] = (count, first) if count >= first else (first, max(second, count))
    rows = []
    for i, counter in enumerate(counters):
        matches, totals = [0] * WORD_ORDER, [0] * WORD_ORDER
        for ngram, count in counter.items():
            first, second = top[ngram]
            totals[len(ngram) - 1] += count
            matches[len(ngram) - 1] += min(count, second if count == first else first)
        others = np.delete(lengths, i)
        distance = np.abs(others - lengths[i])
        closest = others[distance == distance.min()].min() if len(others) else 0
        rows.append([lengths[i], closest, *matches, *totals])
    return np.asarray(rows, float).reshape(-1, 2 + 2 * WORD_ORDER)


def chrf_rows(hypotheses: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, "n 18"]:
    """Return the counts that corpus chrF sums, one row per text.

    Args:
        hypotheses: texts to rate, (n,).
        references: one reference per text, (n,).

    Returns:
        For each order, the character n-grams of the hypothesis, those of the reference, and their
        matches.
    """
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        ours, theirs = "".join(hypothesis.split()), "".join(reference.split())
        row = []
        for n in range(1, CHAR_ORDER + 1):
            mine = Counter(ours[i : i + n] for i in range(len(ours) - n + 1))
            other = Counter(theirs[i : i + n] for i in range(len(theirs) - n + 1))
            row += [mine.total() if other else 0, other.total(), (mine & other).total()]
        rows.append(row)
    return np.asarray(rows, float).reshape(-1, 3 * CHAR_ORDER)


def chrf(sums: Float[np.ndarray, "... 18"]) -> Float[np.ndarray, "..."]:
    """Return chrF2 in percent (Popovic 2015): F of mean character n-gram precision and recall.

    Args:
        sums: sums of `chrf_rows`.
    """
    ours, theirs, matches = (sums[..., i::3] for i in range(3))
    used = (ours > 0) & (theirs > 0)
    count = np.maximum(used.sum(-1), 1)
    precision = np.where(used, matches / np.maximum(ours, 1), 0).sum(-1) / count
    recall = np.where(used, matches / np.maximum(theirs, 1), 0).sum(-1) / count
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)


def signatures() -> dict[str, str]:
    """Return sacreBLEU's description of the settings of `bleu` and `chrf`."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    out = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        metric.corpus_score(["a"], [["a"]])  # the signature includes the number of references
        out[name] = str(metric.get_signature())
    return out


# Diversity


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the share of different ones among all word n-grams (Li et al. 2016).

    The share falls with the number of texts: compare only values of equally many texts. It is nan
    if the texts have no n-grams.
    """
    ngrams = [ngram for text in texts for ngram in _ngrams(words(text), n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else float("nan")


def repeated_bigrams(rows: Sequence[Sequence[Any]]) -> Float[np.ndarray, "n 2"]:
    """Count the bigrams of each row that occurred earlier in the same row.

    Args:
        rows: words or ids of each text, without padding.

    Returns:
        Repeated bigrams and all bigrams of each row: the ratio of their sums is the repetition of
        the texts, 0 if no bigram occurs twice in a text.
    """
    out = []
    for row in rows:
        bigrams = _ngrams(row, 2)
        out.append([len(bigrams) - len(set(bigrams)), len(bigrams)])
    return np.asarray(out, float).reshape(-1, 2)
