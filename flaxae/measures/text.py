"""Measures of texts alone: BLEU and chrF as sums, edit distance, distinct-n, self-BLEU, validity.

BLEU and chrF are statistics of sums over lines, so that they can be resampled; that they equal
sacreBLEU's own is tested. sacrebleu and rapidfuzz are imported where they are used: a training run
needs neither.
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


def is_valid(line: str) -> bool:
    """Whether a line parses as Python on its own."""
    if not line.strip():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(line)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return False
    return True


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's, in characters."""
    from rapidfuzz.distance import Levenshtein  # a training run needs it not

    return Levenshtein.distance(a, b)


class Way(NamedTuple):
    """What the scores of a way are made of, in edit distances d.

    Attributes:
        whole: d(first, last).
        total, largest: of the d(x_t, x_t+1).
        distinct: different texts.
        texts: how many there are.
    """

    whole: int
    total: int
    largest: int
    distinct: int
    texts: int

    @property
    def ratio(self) -> float:
        """Whole / total: at most 1 (no detours); 0 where nothing changes."""
        return self.whole / self.total if self.total else 0.0

    @property
    def largest_share(self) -> float:
        """Largest / total: 1 is one jump; 0 where nothing changes."""
        return self.largest / self.total if self.total else 0.0


def way_of(path: Sequence[str]) -> Way:
    """The measures of a way's texts, ends included."""
    steps = [edit_distance(a, b) for a, b in zip(path, path[1:], strict=False)]
    whole = edit_distance(path[0], path[-1])
    return Way(whole, sum(steps), max(steps, default=0), len(set(path)), len(path))


def valid(lines: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """`is_valid` of each line."""
    return np.asarray([is_valid(line) for line in lines], bool)


def validity(lines: Sequence[str]) -> float:
    """Share of lines that parse as Python; nan for none."""
    return float(valid(lines).mean()) if len(lines) else float("nan")


def edit_similarity(made: Sequence[str], truth: Sequence[str]) -> Float[np.ndarray, " n"]:
    """1 - Levenshtein distance / longer length, in characters; 1 for two empty texts."""
    from rapidfuzz.distance import Levenshtein

    return np.asarray(
        [Levenshtein.normalized_similarity(a, b) for a, b in zip(made, truth, strict=True)]
    )


@functools.cache
def _word_tokenizer() -> Callable[[str], str]:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU().tokenizer  # "13a", sacreBLEU's default


def words(text: str) -> list[str]:
    """The text in words, as sacreBLEU's default tokenizer cuts it."""
    return _word_tokenizer()(text.rstrip()).split()


def _grams(items: Sequence[Any], n: int) -> list[tuple]:
    return list(zip(*(items[i:] for i in range(n)), strict=False))


def bleu_rows(made: Sequence[str], truth: Sequence[str]) -> Float[np.ndarray, "n 10"]:
    """What corpus BLEU sums: both lengths, then matches and counts of each order."""
    rows = []
    for a, b in zip(made, truth, strict=True):
        ours, theirs = words(a), words(b)
        matches, totals = [], []
        for n in range(1, WORD_ORDER + 1):
            mine = Counter(_grams(ours, n))
            matches.append((mine & Counter(_grams(theirs, n))).total())
            totals.append(mine.total())
        rows.append([len(ours), len(theirs), *matches, *totals])
    return np.asarray(rows, float).reshape(-1, 2 + 2 * WORD_ORDER)


def bleu(sums: Float[np.ndarray, "... 10"]) -> Float[np.ndarray, "..."]:
    """BLEU in percent (Papineni et al. 2002), smoothed as sacreBLEU's default ("exp")."""
    made, truth = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + WORD_ORDER], sums[..., 2 + WORD_ORDER :]
    missed = matches == 0
    # The k-th order without a match counts as 1 / 2^k of one.
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), matches)
    precision = smoothed / np.maximum(totals, 1)
    with np.errstate(divide="ignore", over="ignore"):
        brevity = np.where(made < truth, np.exp(1 - truth / np.maximum(made, 1e-9)), 1.0)
        score = 100 * brevity * np.exp(np.log(precision).mean(-1))
    return np.where((totals > 0).all(-1) & (matches > 0).any(-1), score, 0.0)


def chrf_rows(made: Sequence[str], truth: Sequence[str]) -> Float[np.ndarray, "n 18"]:
    """What corpus chrF sums: counts of both sides and matches, of each order."""
    rows = []
    for a, b in zip(made, truth, strict=True):
        ours, theirs = "".join(a.split()), "".join(b.split())
        row = []
        for n in range(1, CHAR_ORDER + 1):
            mine = Counter(ours[i : i + n] for i in range(len(ours) - n + 1))
            other = Counter(theirs[i : i + n] for i in range(len(theirs) - n + 1))
            row += [mine.total() if other else 0, other.total(), (mine & other).total()]
        rows.append(row)
    return np.asarray(rows, float).reshape(-1, 3 * CHAR_ORDER)


def chrf(sums: Float[np.ndarray, "... 18"]) -> Float[np.ndarray, "..."]:
    """chrF2 in percent (Popovic 2015): F of mean character n-gram precision and recall."""
    made, truth, matches = (sums[..., i::3] for i in range(3))
    used = (made > 0) & (truth > 0)
    count = np.maximum(used.sum(-1), 1)
    precision = np.where(used, matches / np.maximum(made, 1), 0).sum(-1) / count
    recall = np.where(used, matches / np.maximum(truth, 1), 0).sum(-1) / count
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)


def signatures() -> dict[str, str]:
    """SacreBLEU's own description of the settings that BLEU and chrF are computed with."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    out = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        metric.corpus_score(["a"], [["a"]])  # the number of references is part of it
        out[name] = str(metric.get_signature())
    return out


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different word n-grams over all of them (Li et al. 2016); it falls with more texts.

    Only numbers of equally many texts compare.
    """
    grams = [gram for text in texts for gram in _grams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu_rows(texts: Sequence[str]) -> Float[np.ndarray, "n 10"]:
    """Rows for `bleu` of each text against all others (Zhu et al. 2018): high is monotonous.

    In one pass: an n-gram's largest count in all other texts is the largest of all, or the second
    where the text itself has the largest.
    """
    cut = [words(text) for text in texts]
    lengths = np.asarray([len(x) for x in cut])
    counters = [Counter(g for n in range(1, WORD_ORDER + 1) for g in _grams(x, n)) for x in cut]
    top: dict[tuple, tuple[int, int]] = {}  # n-gram -> its largest and second largest count
    for counter in counters:
        for gram, count in counter.items():
            first, second = top.get(gram, (0, 0))
            top[gram] = (count, first) if count >= first else (first, max(second, count))
    rows = []
    for i, counter in enumerate(counters):
        matches, totals = [0] * WORD_ORDER, [0] * WORD_ORDER
        for gram, count in counter.items():
            first, second = top[gram]
            totals[len(gram) - 1] += count
            matches[len(gram) - 1] += min(count, second if count == first else first)
        others = np.delete(lengths, i)
        distance = np.abs(others - lengths[i])
        closest = others[distance == distance.min()].min() if len(others) else 0
        rows.append([lengths[i], closest, *matches, *totals])
    return np.asarray(rows, float).reshape(-1, 2 + 2 * WORD_ORDER)
