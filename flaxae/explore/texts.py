"""Properties of texts that need no model: language, kind, differences."""

import difflib
import re
from typing import NamedTuple

# (name of the kind, pattern at the start of such a line)
_PYTHON = (
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


def kind(text: str, python: bool) -> str:
    """Return the kind of a line of Python ("import"), or of a sentence ("question")."""
    rules = _PYTHON if python else _SENTENCES
    return next((name for name, pattern in rules if re.match(pattern, text, re.DOTALL)), "other")


class DiffPart(NamedTuple):
    """A part of two compared texts; `old` equals `new` if `same` is true."""

    same: bool
    old: str
    new: str


def diff(old: str, new: str) -> list[DiffPart]:
    """Split two texts into equal and different parts, by characters."""
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [DiffPart(tag == "equal", old[i:j], new[k:m]) for tag, i, j, k, m in blocks]
