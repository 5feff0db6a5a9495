"""Measures of texts: sacreBLEU's own numbers, and hand-made cases."""

import numpy as np
import pytest
import sacrebleu

from flaxae.measures import text as m

TRUTH = [
    "for name in sorted(self.names, key=len):",
    "return self.value + other.value",
    "the cat sat on the mat, and the dog too.",
    "import os",
    "x = 1",
    "",
]
MADE = [
    "for name in sorted(self.name, key=str):",
    "return self.value - other.value",
    "the the cat sat on a mat and the dog.",
    "import sys",
    "x = 1",
    "something",
]


@pytest.mark.parametrize("made", [MADE, TRUTH, MADE[::-1], [""] * 6, ["import"] * 6])
def test_bleu_and_chrf_are_sacrebleus(made):
    bleu, chrf = sacrebleu.corpus_bleu(made, [TRUTH]), sacrebleu.corpus_chrf(made, [TRUTH])
    assert m.bleu(m.bleu_rows(made, TRUTH).sum(0)) == pytest.approx(bleu.score, abs=1e-9)
    assert m.chrf(m.chrf_rows(made, TRUTH).sum(0)) == pytest.approx(chrf.score, abs=1e-9)


def test_identical_texts_score_a_hundred_and_sums_are_vectorised():
    rows = m.bleu_rows(TRUTH, TRUTH)
    sums = np.stack([rows.sum(0), m.bleu_rows(MADE, TRUTH).sum(0)])
    found = m.bleu(sums)
    assert found[0] == pytest.approx(100) and 0 < found[1] < 60
    assert m.chrf(m.chrf_rows(TRUTH, TRUTH).sum(0)) == pytest.approx(100)
    assert "tok:13a" in m.signatures()["bleu"] and "nc:6" in m.signatures()["chrf"]


def test_edit_similarity_by_hand():
    found = m.edit_similarity(["abcd", "abcd", "", "kitten"], ["abcd", "abxd", "", "sitting"])
    np.testing.assert_allclose(found, [1, 0.75, 1, 1 - 3 / 7])


def test_validity():
    assert m.is_valid("return self.x") and m.is_valid("x = [1]")
    assert not m.is_valid("else:") and not m.is_valid(" ")
    assert not m.is_valid("x = \0")
    assert m.validity(["x", "x ="]) == 0.5 and np.isnan(m.validity([]))


def test_distinct_n_by_hand():
    assert m.distinct_n(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert m.distinct_n(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert m.distinct_n(["a"], 2) == 0


def test_self_bleu_is_bleu_against_all_others():
    texts = [*TRUTH[:5], "for name in sorted(self.names):", "return self.value", "x = 1"]
    others = [texts[:i] + texts[i + 1 :] for i in range(len(texts))]
    streams = [list(column) for column in zip(*others, strict=True)]
    expected = sacrebleu.corpus_bleu(texts, streams).score
    assert m.bleu(m.self_bleu_rows(texts).sum(0)) == pytest.approx(expected, abs=1e-9)
    assert m.bleu(m.self_bleu_rows(["a b c d e"] * 3).sum(0)) == pytest.approx(100)
    unlike = ["a b c d", "e f g h", "i j k l"]
    assert m.bleu(m.self_bleu_rows(unlike).sum(0)) == 0
