"""Measures of texts alone that evaluations and the explorer share."""

import ast
import warnings
from collections.abc import Sequence
from typing import NamedTuple


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
        """whole / total: at most 1 (no detours); 0 where nothing changes."""
        return self.whole / self.total if self.total else 0.0

    @property
    def largest_share(self) -> float:
        """largest / total: 1 is one jump; 0 where nothing changes."""
        return self.largest / self.total if self.total else 0.0


def way_of(path: Sequence[str]) -> Way:
    """The measures of a way's texts, ends included."""
    steps = [edit_distance(a, b) for a, b in zip(path, path[1:], strict=False)]
    whole = edit_distance(path[0], path[-1])
    return Way(whole, sum(steps), max(steps, default=0), len(set(path)), len(path))
