"""What can be seen of a text without a model."""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from flaxae.measures.text import is_valid

PYTHON_SHARE = 0.3  # of lines that parse, from which on a corpus counts as Python's

_PYTHON = (  # name, and what a line of that kind begins with
    ("comment", r"\s*#"),
    ("string", r"\s*[rbufRBUF]{0,2}[\"']"),
    ("import", r"\s*(import|from)\b"),
    ("definition", r"\s*(async def|def|class)\b|\s*@"),
    ("return, raise", r"\s*(return|yield|raise|assert)\b"),
    ("branch", r"\s*(if|elif|else|try|except|finally|match|case)\b"),
    ("loop, with", r"\s*(async )?(for|while|with)\b"),
    ("assignment", r"[^=!<>(]+?[-+*/%|&^@]?=(?!=)"),
    ("call", r"\s*[\w.]+\("),
)
_SENTENCES = (("question", r".*\?\W*$"), ("exclamation", r".*!\W*$"), ("sentence", r".*[.]\W*$"))


def is_python(texts: Sequence[str]) -> bool:
    """Whether enough of the first 500 texts parse."""
    some = texts[:500]
    return bool(some) and sum(map(is_valid, some)) > PYTHON_SHARE * len(some)


def kind(text: str, python: bool) -> str:
    """What sort of line or sentence a text is."""
    rules = _PYTHON if python else _SENTENCES
    return next((name for name, pattern in rules if re.match(pattern, text, re.DOTALL)), "other")


class Piece(NamedTuple):
    """A stretch of two texts that are compared; where they agree `old` is `new`."""

    same: bool
    old: str
    new: str


def differences(old: str, new: str) -> list[Piece]:
    """The texts cut where they agree and where they differ, by characters."""
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [Piece(tag == "equal", old[i:j], new[k:m]) for tag, i, j, k, m in blocks]
