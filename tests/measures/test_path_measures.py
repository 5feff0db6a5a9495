"""Measures of texts by hand."""

import pytest

from flaxae.measures.text import edit_distance, is_valid, way_of


@pytest.mark.parametrize("line", ["return self.x", "x = [1]", "x"])
def test_valid(line: str) -> None:
    assert is_valid(line)


@pytest.mark.parametrize("line", ["else:", " ", "", "x = ", "x = \0"])
def test_not_valid(line: str) -> None:
    assert not is_valid(line)


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3 and edit_distance("", "ab") == 2


def test_ways() -> None:
    straight = way_of(["ab", "ax", "yx"])
    assert straight == (2, 2, 1, 3, 3) and (straight.ratio, straight.largest_share) == (1.0, 0.5)
    back = way_of(["a", "b", "a"])
    assert back == (0, 2, 1, 2, 3) and (back.ratio, back.largest_share) == (0.0, 0.5)
    still = way_of(["a", "a"])
    assert still == (0, 0, 0, 1, 2) and (still.ratio, still.largest_share) == (0.0, 0.0)
