"""A tiny language model and its text, for the tests that train dictionaries."""

import pytest

from tests.models.causal_lm.tiny import base


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sae")
    base(folder / "model")
    lines = [f"Line {i} says that {i * i} is the square of {i}." for i in range(80)]
    (folder / "text.txt").write_text("\n".join(lines))
    return folder
