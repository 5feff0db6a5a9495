"""Real text that needs no download: what the running Python's own standard library is written in.

It is read at run time from the interpreter's library; nothing of it is copied into this project.
"""

import ast
import functools
import hashlib
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from flaxae.config import ConfigError
from flaxae.data.text import Corpus, make_corpus

NAMES = ("python_lines", "docstrings")
MIN_LENGTH, MAX_LENGTH = 8, 80  # characters of a Python line
# Installed packages are not the standard library; some distributions leave out its tests, and
# pydoc_data is one long quoted manual.
SKIPPED = {"site-packages", "dist-packages", "__pycache__"}
SKIPPED |= {"test", "tests", "idle_test", "pydoc_data"}
_SENTENCE_END = re.compile(r"(?<=[a-z)\]'\"`0-9][.!?])\s+(?=[A-Z])")
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_WORD = re.compile(r"[A-Za-z]{2,}")


def corpus(name: str, max_lines: int = 0) -> Corpus:
    """An embedded corpus, the same on every run of one Python version.

    Args:
        name: "python_lines" (lines of 8-80 characters, white space around them taken off) or
            "docstrings" (English sentences of docstrings).
        max_lines: stop after so many distinct lines; 0: all. Files come in an order of their
            names' hashes, so that a part is a sample of whole files.
    Returns:
        The corpus; its name says which Python it was read from.
    Raises:
        ConfigError: there is no such corpus, or this Python has no library to read.
    """
    if name not in NAMES:
        raise ConfigError(f"data.name={name!r}: the embedded corpora are {', '.join(NAMES)}")
    pick = _code_lines if name == "python_lines" else _sentences
    unread: list[str] = []

    def texts() -> Iterator[tuple[str, list[str]]]:
        for file_name, path in _library_files():
            try:
                source = path.read_text(encoding="utf-8")
                yield file_name, pick(source)
            except (UnicodeDecodeError, SyntaxError):
                unread.append(file_name)

    out = make_corpus(f"{name} of {_python()}", texts(), max_lines)
    if not out.examples:
        raise ConfigError(
            f"this Python has no readable standard library at {_library()}, so data.name={name!r}"
            " is empty: set data.path to a text file"
        )
    if unread:
        out.notes.append(f"files that could not be read: {', '.join(unread)}")
    return out


def _python() -> str:
    version = ".".join(str(x) for x in sys.version_info[:3])
    return f"{sys.implementation.name} {version}"


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


@functools.cache
def _library_files() -> list[tuple[str, Path]]:
    """(name, path) of the library's modules, ordered by the hash of the name."""
    root = _library()
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [x for x in folders if x not in SKIPPED and not x.startswith("config-")]
        # _sysconfigdata_* says where and how this Python was built: another on each machine.
        files = [f for f in files if f.endswith(".py") and not f.startswith("_sysconfigdata")]
        found += [Path(folder, f) for f in files]
    names = [(path.relative_to(root).as_posix(), path) for path in found]
    return sorted(names, key=lambda x: hashlib.blake2b(x[0].encode(), digest_size=8).digest())


def _code_lines(source: str) -> list[str]:
    lines = (line.strip() for line in source.split("\n"))
    return [line for line in lines if MIN_LENGTH <= len(line) <= MAX_LENGTH]


def _sentences(source: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(source)
    out = []
    for node in _documented(tree):
        for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
            out += [s for s in _SENTENCE_END.split(" ".join(paragraph.split())) if _english(s)]
    return out


def _documented(node: _Documented) -> Iterator[_Documented]:
    """The module, its classes and functions, and theirs: quicker than walking all."""
    yield node
    for child in node.body:
        if isinstance(child, _Documented):
            yield from _documented(child)


def _english(sentence: str) -> bool:
    """A capital, four words or more, mostly letters, a full stop; no code, no tables."""
    if not (20 <= len(sentence) <= 200 and sentence[0].isupper() and sentence[-1] in ".!?"):
        return False
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return (
        len(_WORD.findall(sentence)) >= 4
        and letters >= 0.85 * len(sentence)
        and ">>>" not in sentence
    )
