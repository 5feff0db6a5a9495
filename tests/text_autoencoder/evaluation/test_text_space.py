"""Measures of the space of texts on two table-lookup autoencoders: one copies, one knows texts."""

from typing import Any

import numpy as np
import pytest

from flaxae.text_autoencoder.evaluation import text_space as m
from flaxae.text_autoencoder.evaluation.headline import headline
from tests.models.t5_vae.tiny import Letters

WIDTH = 8


class Copier:
    """Its code is the ids themselves; decoding rounds them."""

    scale, tokenizer = 1.0, Letters()

    def ids(self, lines):
        out = np.zeros((len(lines), WIDTH), np.int32)
        for row, tokens in zip(out, Letters().encode(lines), strict=True):
            kept = [*tokens[: WIDTH - 1], 1]
            row[: len(kept)] = kept
        return out

    def encode(self, texts):
        return self.encode_ids(self.ids(texts))

    def encode_ids(self, ids):
        return ids[:, None].astype(np.float32)

    def generate(self, z, assumed_noise=None):
        return np.clip(np.round(z[:, 0]), 0, 28).astype(np.int32)

    def decode(self, z, noise=0.0, seed=0):
        return self.texts(
            self.generate(z + noise * np.random.default_rng(seed).normal(size=z.shape))
        )

    def texts(self, ids):
        return Letters().decode(ids.tolist())


class Knower(Copier):
    """It decodes the known line whose code is nearest."""

    def __init__(self, lines):
        self.lines = self.ids(lines)

    def generate(self, z, assumed_noise=None):
        distances = np.square(z[:, 0, None] - self.lines[None]).sum(-1)
        return self.lines[distances.argmin(1)]


LINES = ["abcdef", "bcdefa", "fedcba", "aabbcc", "ffeedd", "abab", "cdcd", "fa"]


def test_shuffled_ids_are_permutations_that_end_like_the_line():
    ids = Copier().ids([*LINES, "a", "bbb"])
    rows, found = m.shuffled_ids(ids)
    assert rows.tolist() == list(range(len(LINES)))  # the last two have no other order
    assert (found != ids[rows]).any(1).all()
    np.testing.assert_array_equal(np.sort(found), np.sort(ids[rows]))
    np.testing.assert_array_equal(found == 1, ids[rows] == 1)
    np.testing.assert_array_equal(m.shuffled_ids(ids)[1], found)


@pytest.mark.parametrize(("codec", "shuffled"), [(Copier(), 1), (Knower(LINES), 0)])
def test_a_copier_copies_shuffled_lines_and_a_knower_does_not(codec: Any, shuffled):
    found: Any = m.copying(codec, codec.ids(LINES), draws=20)
    assert found["exact_match"] == 1 and found["exact_match_shuffled"] == shuffled
    assert (found["restored"] > 0) == (shuffled == 0)
    assert found["lines"] == len(LINES)
    assert "n/a" in m.copying(codec, codec.ids(["a"]))


def test_rounds_pull_noise_to_known_lines_and_copy_it_otherwise():
    z = np.random.default_rng(0).uniform(3, 28, size=(30, 1, WIDTH)).astype(np.float32)
    z[:, 0, -1] = 1  # EOS

    def known(texts, draws):
        return {"known": np.mean([text in LINES for text in texts])}

    copier, knower = Copier(), Knower(LINES)
    for codec, expected in ((copier, 0), (knower, 1)):
        found = m.pull_to_text(codec, known, z, (0, 2))  # pyright: ignore[reportArgumentType]
        assert [row["after"] for row in found] == [0, 2]
        assert found[1]["known"] == expected
    given: Any = copier
    assert len(set(map(tuple, m.rounds(given, z, 2)))) == 1  # always the same nonsense
    assert len(set(map(tuple, m.rounds(given, z, 2, noise=2.0)))) == 3


def test_edit_distances_and_neighbours_of_known_lines():
    ids = Copier().ids(["ab", "abc", "xyz", "xyzw"])
    expected = [[0, 1, 3, 4], [1, 0, 3, 4], [3, 3, 0, 1], [4, 4, 1, 0]]
    np.testing.assert_array_equal(m.edit_distances(ids), expected)
    codes = np.asarray([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])[:, None]
    found: Any = m.neighbours(ids, codes, 1, draws=20)
    assert found["recall"] == 1 and found["chance"] == pytest.approx(1 / 3)
    swapped: Any = m.neighbours(ids, codes[[0, 2, 1, 3]], 1, draws=20)
    assert swapped["recall"] == 0
    twice: Any = m.neighbours(ids[[0, 1, 2, 3, 0]], codes[[0, 1, 2, 3, 0]], 1, draws=20)
    assert twice["lines"] == 4  # a repeated line counts once
    assert "n/a" in m.neighbours(ids, codes)


def test_an_edit_replaces_one_token_and_moves_the_code_by_as_much():
    codec: Any = Copier()
    ids = codec.ids([*LINES, ""])
    edited = m.edited_ids(ids)
    assert (edited != ids).sum(1).tolist() == [1] * len(LINES) + [0]
    np.testing.assert_array_equal(edited == 1, ids == 1)  # no EOS is replaced or made
    found: Any = m.edit_moves(codec, ids, codec.encode_ids(ids), draws=20)
    rows = slice(len(LINES))
    steps = np.abs(edited - ids)[rows].sum(1)
    other = m._others(ids[rows].astype(float), 0)
    between = np.linalg.norm(ids[rows] - other, axis=1)
    assert found["distance"] == pytest.approx(steps.sum() / between.sum())
    assert found["cosine"] > found["cosine_of_others"]
    assert (other != ids[rows]).any(1).all()


def test_the_headline_is_flat_and_nan_where_nothing_was_measured():
    row = {"forward_ppl": 9.0, "validity": 0.5, "repetition": 0.1, "distinct_2": 0.9}
    pull = {"rounds": [row, row | {"validity": 0.75, "forward_ppl": 4.0}]}
    report = {
        "splits": {"dev": {"exact_match": 0.8}},
        "samples": row | {"pull": pull, "others": {"real_lines": row | {"validity": 1.0}}},
        "text_space": {"shuffled": {"exact_match_shuffled": 0.3}, "neighbours": "n/a: too few"},
        "latent": {"bits": {"per_line": 80.0}},
        "interpolation": {
            "slerp": {"middle_over_real": {"value": 0.4}},
            "denoised": {"middle_over_real": {"value": 0.9}},
            "best": "denoised",
        },
        "probes": "n/a",
    }
    found = headline(report)
    assert found["exact_match"] == 0.8 and found["exact_match_shuffled"] == 0.3
    assert found["pull_valid"] == 0.75 and found["pull_perplexity"] == 4
    assert found["samples_valid"] == 0.5 and found["real_valid"] == 1 and found["bits"] == 80
    assert found["path_middle_valid"] == 0.4 and found["best_path_middle_valid"] == 0.9
    missing = {name for name, x in found.items() if np.isnan(x)}
    assert missing == {
        *("neighbours_recall_10", "edit_move", "kind_probe_10"),
        *("path_middle_perplexity", "path_largest_step", "shuffled_restored"),
        *("gmm_valid", "gmm_perplexity"),
    }
