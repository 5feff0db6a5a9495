"""The corpora that need no download."""

import platform

import pytest

from flaxae.config import ConfigError
from flaxae.data.embedded import corpus


def test_python_lines():
    lines = corpus("python_lines")
    assert len(lines.examples) > 100_000
    assert len(set(lines.examples)) == len(lines.examples)
    assert all(8 <= len(x) <= 80 and x == x.strip() for x in lines.examples)
    assert "import os" in lines.examples
    folders = {part for name in lines.file_names for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "site-packages", "__pycache__"}
    assert platform.python_version() in lines.fingerprint


def test_a_part_is_whole_files_of_the_same_order():
    part, more = corpus("python_lines", 2000), corpus("python_lines", 4000)
    assert len(part.examples) == 2000
    assert more.examples[:2000] == part.examples
    assert corpus("python_lines", 2000).fingerprint == part.fingerprint != more.fingerprint


def test_docstrings_are_sentences():
    sentences = corpus("docstrings", 500).examples
    assert len(sentences) == 500
    assert all(s[0].isupper() and s[-1] in ".!?" and "\n" not in s for s in sentences)


def test_unknown_name():
    with pytest.raises(ConfigError, match="python_lines, docstrings"):
        corpus("nothing")
