"""Factors that can be read off a line itself, as labels for probes and disentanglement."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_KINDS = (  # the name of a kind, and a pattern of how its lines begin
    ("comment", r"#"),
    ("string", r"[rbuRBU]{0,2}[\"']"),
    ("import", r"(import|from)\b"),
    ("definition", r"(async def|def|class|@)\b|@"),
    ("return", r"(return|yield|raise)\b"),
    ("branch", r"(if|elif|else|try|except|finally|match|case)\b"),
    ("loop", r"(for|while|with|async for|async with)\b"),
    ("assignment", r"[^=!<>(]+[-+*/%|&^@]?=(?!=)|[^=!<>]+[^=!<>]=(?!=)\s"),
    ("call", r"[\w.]+\("),
)
KINDS = (*(name for name, _ in _KINDS), "other")
_PATTERNS = [re.compile(pattern) for _, pattern in _KINDS]
MAX_DEPTH = 3


def kind(line: str) -> int:
    """Classify a line of Python by its beginning; the result is an index of KINDS."""
    return next((i for i, p in enumerate(_PATTERNS) if p.match(line)), len(_PATTERNS))


def bracket_depth(line: str) -> int:
    """Return the nesting depth of brackets, at most MAX_DEPTH."""
    depth = deepest = 0
    for character in line:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(depth - 1, 0)
    return min(deepest, MAX_DEPTH)


def length_bins(lines: Sequence[str], bins: int = 4) -> Int[np.ndarray, " n"]:
    """Return for each line the quantile bin of its length, from 0."""
    lengths = np.asarray([len(line) for line in lines])
    edges = np.quantile(lengths, np.arange(1, bins) / bins) if len(lines) else []
    return np.searchsorted(edges, lengths, side="left")


def factors_of(lines: Sequence[str], python: bool) -> dict[str, Int[np.ndarray, " n"]]:
    """Return the factors of lines as small integers, one per line.

    Args:
        lines: the texts.
        python: whether they are lines of Python; other texts have other factors.

    Returns:
        The values by the factor's name; factors with a single value are left out.
    """
    out = {"length": length_bins(lines), "number": _has(lines, r"\d")}
    if python:
        out |= {
            "kind": np.asarray([kind(line) for line in lines]),
            "depth": np.asarray([bracket_depth(line) for line in lines]),
            "string": _has(lines, r"[\"']"),
        }
    else:
        out |= {
            "comma": _has(lines, r","),
            "question": _has(lines, r"\?"),
            "capital": _has(lines, r"\s[A-Z]"),
        }
    return {name: values for name, values in out.items() if len(np.unique(values)) > 1}


def _has(lines: Sequence[str], pattern: str) -> Int[np.ndarray, " n"]:
    """Return 1 for each line that contains the pattern, else 0."""
    return np.asarray([re.search(pattern, line) is not None for line in lines], int)
