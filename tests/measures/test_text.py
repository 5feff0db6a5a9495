"""Measures of texts against sacreBLEU and on small cases."""

import numpy as np
import pytest
import sacrebleu

from flaxae.measures import text as m

REFERENCES = [
    "for name in sorted(self.names, key=len):",
    "return self.value + other.value",
    "the cat sat on the mat, and the dog too.",
    "import os",
    "x = 1",
    "",
]
HYPOTHESES = [
    "for name in sorted(self.name, key=str):",
    "return self.value - other.value",
    "the the cat sat on a mat and the dog.",
    "import sys",
    "x = 1",
    "something",
]


@pytest.mark.parametrize(
    "texts", [HYPOTHESES, REFERENCES, HYPOTHESES[::-1], [""] * 6, ["import"] * 6]
)
def test_bleu_and_chrf_equal_sacrebleu(texts):
    bleu = sacrebleu.corpus_bleu(texts, [REFERENCES])
    chrf = sacrebleu.corpus_chrf(texts, [REFERENCES])
    assert m.bleu(m.bleu_rows(texts, REFERENCES).sum(0)) == pytest.approx(bleu.score, abs=1e-9)
    assert m.chrf(m.chrf_rows(texts, REFERENCES).sum(0)) == pytest.approx(chrf.score, abs=1e-9)


def test_identical_texts_score_100_and_sums_may_have_leading_axes():
    rows = m.bleu_rows(REFERENCES, REFERENCES)
    sums = np.stack([rows.sum(0), m.bleu_rows(HYPOTHESES, REFERENCES).sum(0)])
    found = m.bleu(sums)
    assert found[0] == pytest.approx(100) and 0 < found[1] < 60
    assert m.chrf(m.chrf_rows(REFERENCES, REFERENCES).sum(0)) == pytest.approx(100)
    assert "tok:13a" in m.signatures()["bleu"] and "nc:6" in m.signatures()["chrf"]


def test_edit_distance():
    assert m.edit_distance("kitten", "sitting") == 3 and m.edit_distance("", "ab") == 2


def test_edit_similarity_of_small_cases():
    found = m.edit_similarity(["abcd", "abcd", "", "kitten"], ["abcd", "abxd", "", "sitting"])
    np.testing.assert_allclose(found, [1, 0.75, 1, 1 - 3 / 7])


@pytest.mark.parametrize("line", ["return self.x", "x = [1]", "x"])
def test_lines_that_parse_are_valid(line):
    assert m.is_valid(line)


@pytest.mark.parametrize("line", ["else:", " ", "", "x = ", "x = \0"])
def test_lines_that_do_not_parse_are_not_valid(line):
    assert not m.is_valid(line)


def test_validity_is_the_share_of_valid_lines():
    assert m.validity(["x", "x ="]) == 0.5 and np.isnan(m.validity([]))


def test_distinct_n_of_small_cases():
    assert m.distinct_n(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert m.distinct_n(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert np.isnan(m.distinct_n(["a"], 2)) and np.isnan(m.distinct_n([], 1))


def test_self_bleu_equals_bleu_against_all_other_texts():
    texts = [*REFERENCES[:5], "for name in sorted(self.names):", "return self.value", "x = 1"]
    others = [texts[:i] + texts[i + 1 :] for i in range(len(texts))]
    streams = [list(column) for column in zip(*others, strict=True)]
    expected = sacrebleu.corpus_bleu(texts, streams).score
    assert m.bleu(m.self_bleu_rows(texts).sum(0)) == pytest.approx(expected, abs=1e-9)
    assert m.bleu(m.self_bleu_rows(["a b c d e"] * 3).sum(0)) == pytest.approx(100)
    different = ["a b c d", "e f g h", "i j k l"]
    assert m.bleu(m.self_bleu_rows(different).sum(0)) == 0


def test_path_lengths_of_straight_returning_and_constant_paths():
    straight = m.path_lengths(["ab", "ax", "yx"])
    assert straight == (2, 2, 1, 3, 3)
    assert (straight.ratio, straight.largest_share) == (1.0, 0.5)
    back = m.path_lengths(["a", "b", "a"])
    assert back == (0, 2, 1, 2, 3) and (back.ratio, back.largest_share) == (0.0, 0.5)
    constant = m.path_lengths(["a", "a"])
    assert constant == (0, 0, 0, 1, 2)
    assert (constant.ratio, constant.largest_share) == (0.0, 0.0)


def test_repeated_bigrams_are_counted_within_a_row():
    found = m.repeated_bigrams([["+", "+", "+", "+"], [1, 2, 3, 1, 2], ["a"], []])
    np.testing.assert_array_equal(found, [[2, 3], [1, 4], [0, 0], [0, 0]])
