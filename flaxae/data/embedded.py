"""Real text that needs no download: the source of Python's library and of installed packages.

The files of the environment are read at run time; no text of them is copied into this project.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from flaxae.data.text import Corpus, digest, make_corpus
from flaxae.errors import ConfigError

NAMES = ("python_lines", "docstrings")
MIN_LENGTH, MAX_LENGTH = 8, 80  # characters of a Python line
# Dependencies of this project. constraints.txt fixes their versions, and so their docstrings.
PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "jax": "jax",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "datasets": "datasets",
}
_RECIPE = "docstrings-1"  # part of the cache's key: change it when the selection below changes
# Installed packages are not the standard library; some distributions leave out its tests, and
# pydoc_data is one long quoted manual.
SKIPPED = {"site-packages", "dist-packages", "__pycache__"}
SKIPPED |= {"test", "tests", "idle_test", "pydoc_data"}
_SENTENCE_END = re.compile(r"(?<=[a-z)\]'\"`0-9][.!?])\s+(?=[A-Z])")
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_WORD = re.compile(r"[A-Za-z]{2,}")


def corpus(name: str, max_lines: int = 0, cache_dir: str = "") -> Corpus:
    """Read an embedded corpus, which is fixed for given versions of Python and of the packages.

    Args:
        name: "python_lines" (lines of 8-80 characters of the standard library, white space around
            them stripped) or "docstrings" (about 50,000 English sentences from docstrings of the
            standard library and of PACKAGES).
        max_lines: number of distinct lines after which reading stops; 0: all. Files are read in
            the order of their names' hashes, so that a part is a sample of whole files.
        cache_dir: folder where "docstrings", which takes 20 seconds to read, is cached; "": none.

    Returns:
        The corpus; its name contains the versions of Python and of the packages.

    Raises:
        ConfigError: if there is no such corpus, or this Python has no source files to read.
    """
    if name not in NAMES:
        raise ConfigError(f"data.name={name!r}: the embedded corpora are {', '.join(NAMES)}")
    if name == "python_lines":
        return _read(name, f"{name} of {_python()}", _code_lines, _library_files(), max_lines)
    found = {package: _version(dist) for package, dist in PACKAGES.items()}
    versions = "".join(f", {package} {version}" for package, version in found.items() if version)
    title = f"{name} of {_python()}{versions}"
    path = ""
    if cache_dir and not max_lines:
        path = os.path.join(cache_dir, "corpora", f"{name}-{digest([_RECIPE, title])}.json")
        if (cached := _read_cache(path)) is not None:
            return cached
    files = list(_library_files())
    files += [x for package, version in found.items() if version for x in _package_files(package)]
    out = _read(name, title, _sentences, sorted(files, key=_rank), max_lines)
    if missing := [package for package, version in found.items() if not version]:
        out.notes.append(f"packages that are not installed: {', '.join(missing)}")
    if path:
        _write_cache(path, out)
    return out


def _read(
    name: str,
    title: str,
    pick: Callable[[str], list[str]],
    files: list[tuple[str, Path]],
    max_lines: int,
) -> Corpus:
    unread: list[str] = []

    def texts() -> Iterator[tuple[str, list[str]]]:
        for file_name, path in files:
            try:
                source = path.read_text(encoding="utf-8")
                yield file_name, pick(source)
            except (UnicodeDecodeError, SyntaxError):
                unread.append(file_name)

    out = make_corpus(title, texts(), max_lines)
    if not out.examples:
        raise ConfigError(
            f"this Python has no readable standard library at {_library()}, so data.name={name!r}"
            " is empty: set data.path to a text file"
        )
    if unread:
        out.notes.append(f"files that could not be read: {', '.join(unread)}")
    return out


def _read_cache(path: str) -> Corpus | None:
    """Return a cached corpus; None if there is none or if its file is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return Corpus(**data | {"also": {int(i): tuple(x) for i, x in data["also"].items()}})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write_cache(path: str, out: Corpus) -> None:
    """Write a corpus atomically."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(out), file)
    os.replace(temporary, path)


def _python() -> str:
    version = ".".join(str(x) for x in sys.version_info[:3])
    return f"{sys.implementation.name} {version}"


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _version(distribution: str) -> str:
    """Return the installed version of a distribution; "" if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _rank(named: tuple[str, Path]) -> bytes:
    return hashlib.blake2b(named[0].encode(), digest_size=8).digest()


@functools.cache
def _library_files() -> list[tuple[str, Path]]:
    """Return (name, path) of the library's modules, ordered by the hash of the name."""
    return sorted(_python_files(_library(), ""), key=_rank)


def _package_files(package: str) -> list[tuple[str, Path]]:
    """Return (name, path) of an installed package's modules; names begin with the package."""
    spec = importlib.util.find_spec(package)  # does not import a top-level package
    roots = list(spec.submodule_search_locations or ()) if spec else []
    return [x for root in roots for x in _python_files(Path(root), f"{package}/")]


def _python_files(root: Path, prefix: str) -> list[tuple[str, Path]]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [x for x in folders if x not in SKIPPED and not x.startswith("config-")]
        # _sysconfigdata_* describes how this Python was built, and differs between machines.
        files = [f for f in files if f.endswith(".py") and not f.startswith("_sysconfigdata")]
        found += [Path(folder, f) for f in files]
    return [(prefix + path.relative_to(root).as_posix(), path) for path in found]


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
    """Yield the module and, recursively, its classes and functions; faster than ast.walk."""
    yield node
    for child in node.body:
        if isinstance(child, _Documented):
            yield from _documented(child)


def _english(sentence: str) -> bool:
    """Check for an English sentence: capital, at least four words, mostly letters, full stop."""
    if not (20 <= len(sentence) <= 200 and sentence[0].isupper() and sentence[-1] in ".!?"):
        return False
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return (
        len(_WORD.findall(sentence)) >= 4
        and letters >= 0.85 * len(sentence)
        and ">>>" not in sentence
    )


def library_sources() -> Iterator[tuple[str, str]]:
    """Yield (name, source) of the library's readable modules, ordered by the hash of the name."""
    for name, path in _library_files():
        try:
            yield name, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue


def python_version() -> str:
    """Return the Python that the library belongs to, such as "cpython 3.11.7"."""
    return _python()
