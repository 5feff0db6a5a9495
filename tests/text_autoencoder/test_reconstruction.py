"""Measures of right, wrong and partly right reconstructions."""

import numpy as np
import pytest

from flaxae.text_autoencoder import reconstruction as m
from tests.models.t5_vae.tiny import Letters

LINES = ["ab", "abcd", "fedcba", "a"]


def ids_of(lines):
    rows = [[*row, 1] for row in Letters().encode(lines)]
    return np.asarray([row + [0] * (8 - len(row)) for row in rows])


def measured(texts, **options):
    return m.measure(ids_of(LINES), ids_of(texts), LINES, texts, python=True, **options)


def test_identical_texts_have_perfect_scores():
    found = measured(LINES)
    for name in ("exact_match", "exact_match_ids", "token_accuracy", "edit_similarity"):
        assert found[name] == 1 and found["intervals"][name] == [1, 1]
    assert found["chrf"] == pytest.approx(100) and found["validity"] == 1


def test_constant_and_shuffled_texts_have_low_scores():
    constant = measured(["zzzz"] * 4)
    assert constant["exact_match"] == constant["bleu"] == constant["edit_similarity"] == 0
    # "abcd" and "zzzz" have EOS at the same position: one match in 5 + 5 + 7 + 5 positions.
    assert constant["token_accuracy"] == pytest.approx(1 / 22)
    shuffled = measured(LINES[1:] + LINES[:1])
    assert shuffled["exact_match"] == 0 < shuffled["token_accuracy"] < 0.5


def test_partly_right_texts():
    found = measured(["ab", "abxd", "fedcb", "a"])
    assert found["exact_match"] == found["exact_match_ids"] == 0.5
    assert found["token_accuracy"] == pytest.approx((3 + 4 + 5 + 2) / (3 + 5 + 7 + 2))
    assert found["edit_similarity"] == pytest.approx((1 + 3 / 4 + 5 / 6 + 1) / 4)
    low, high = found["intervals"]["exact_match"]
    assert low == 0 and high == 1
    short, long = found["by_length"]
    assert short == {
        "tokens": [1, 4],
        "lines": 2,
        "exact_match": 1,
        "exact_match_interval": [1, 1],
        "token_accuracy": 1,
    }
    assert long["tokens"] == [5, 8] and long["exact_match"] == 0


def test_validity_is_measured_only_for_python():
    ids = ids_of(LINES)
    assert "validity" not in m.measure(ids, ids, LINES, LINES, python=False, draws=5)
