"""Tests of the corpora that need no download."""

import importlib.metadata
import platform
from pathlib import Path

import pytest

from flaxae.data import embedded
from flaxae.data.embedded import corpus
from flaxae.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_python_lines_are_stripped_and_distinct():
    lines = corpus("python_lines")
    assert len(lines.examples) > 100_000
    assert len(set(lines.examples)) == len(lines.examples)
    assert all(8 <= len(x) <= 80 and x == x.strip() for x in lines.examples)
    assert "import os" in lines.examples
    folders = {part for name in lines.file_names for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "site-packages", "__pycache__"}
    assert platform.python_version() in lines.fingerprint


def test_max_lines_keeps_whole_files_in_order():
    part, more = corpus("python_lines", 2000), corpus("python_lines", 4000)
    assert len(part.examples) == 2000
    assert more.examples[:2000] == part.examples
    assert corpus("python_lines", 2000).fingerprint == part.fingerprint != more.fingerprint


def test_docstrings_are_sentences():
    sentences = corpus("docstrings", 500).examples
    assert len(sentences) == 500
    assert all(s[0].isupper() and s[-1] in ".!?" and "\n" not in s for s in sentences)


def test_docstrings_of_packages_and_their_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "PACKAGES", {"optax": "optax", "nothing_such": "nothing-such"})
    monkeypatch.setattr(embedded, "_library_files", lambda: [])
    part = corpus("docstrings", 100, str(tmp_path))  # is not cached as the whole
    found = corpus("docstrings", 0, str(tmp_path))
    assert len(part.examples) == 100 and len(found.examples) > 1000
    assert all(name.startswith("optax/") for name in found.file_names)
    version = importlib.metadata.version("optax")
    assert found.name.endswith(f"{platform.python_version()}, optax {version}")
    assert found.notes == ["packages that are not installed: nothing_such"]
    monkeypatch.setattr(embedded, "_read", lambda *_: pytest.fail("read again"))
    again = corpus("docstrings", 0, str(tmp_path))
    assert again == found and again.also == found.also
    (path,) = (tmp_path / "corpora").iterdir()
    path.write_text("{torn")
    monkeypatch.undo()
    monkeypatch.setattr(embedded, "PACKAGES", {"optax": "optax", "nothing_such": "nothing-such"})
    monkeypatch.setattr(embedded, "_library_files", lambda: [])
    assert corpus("docstrings", 0, str(tmp_path)) == found
    monkeypatch.setattr(embedded, "PACKAGES", {"einops": "einops"})
    assert corpus("docstrings", 0, str(tmp_path)).name != found.name


def test_packages_are_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert set(embedded.PACKAGES.values()) <= pinned


def test_an_unknown_corpus_is_an_error():
    with pytest.raises(ConfigError, match="python_lines, docstrings"):
        corpus("nothing")
