"""Scores of known paths, and the two baselines that bound them."""

from typing import Any

import numpy as np
import pytest

from flaxae.text_autoencoder.evaluation import interpolation as m
from flaxae.text_autoencoder.priors import StandardNormal
from tests.models.t5_vae.tiny import Letters


def test_scores_of_known_paths():
    even = ["aaaa", "aaab", "aabb", "abbb", "bbbb"]
    found = m.scores([even], python=False, draws=5)
    assert found["path_ratio"]["value"] == found["distinct"]["value"] == 1
    assert found["max_step_share"]["value"] == 0.25
    detour = m.scores([["ab", "xyz", "ac"]], python=True, draws=5)
    assert detour["path_ratio"]["value"] == pytest.approx(1 / 6)
    assert detour["max_step_share"]["value"] == 0.5 and detour["validity"]["value"] == 1
    # A path of equal texts counts only for `distinct`.
    constant = m.scores([["a"] * 4, ["a", "a", "b", "b"]], python=False, draws=5)
    assert constant["path_ratio"]["value"] == constant["max_step_share"]["value"] == 1
    assert constant["distinct"]["value"] == (1 / 4 + 2 / 4) / 2


def test_baselines_keep_both_ends():
    assert m.copy_endpoint("a", "b", 5) == ["a", "a", "a", "b", "b"]
    a, b = np.asarray([3, 4, 5, 1, 0]), np.asarray([6, 7, 1, 0, 0])
    mixed = m.token_mix(a, b, 9, np.random.default_rng(0))
    np.testing.assert_array_equal(mixed[[0, -1]], [a, b])
    swapped = (mixed == b) & (a != b)
    assert (np.diff(swapped.astype(int), axis=0) >= 0).all()  # a swapped token stays swapped


def test_a_mixed_text_is_not_cut_by_the_end_of_the_shorter_one():
    codec: Any = PerfectCodec()
    ids = codec.ids(["abcdef", "x"])
    (path,) = m._mixed(codec, ids[:1], ids[1:], 200)
    assert path[0] == "abcdef" and path[-1] == "x"
    # From one text to the next, at most one letter is replaced or left out.
    assert all(abs(len(a) - len(b)) <= 1 for a, b in zip(path, path[1:], strict=False))


class PerfectCodec:
    """A codec whose codes are the text's letters, rounded when decoded."""

    scale = 1.0

    def ids(self, lines):
        out = np.zeros((len(lines), 8), int)
        for row, tokens in zip(out, Letters().encode(lines), strict=True):
            row[: len(tokens) + 1] = [*tokens, 1]
        return out

    def encode_ids(self, ids):
        return ids[:, None].astype(float)

    def encode(self, texts):
        return self.encode_ids(self.ids(texts))

    def decode(self, codes):
        return self.texts(np.round(codes[:, 0]).astype(int))

    def texts(self, ids):
        return Letters().decode(ids.tolist())


def test_study_compares_interpolations_with_baselines():
    codec: Any = PerfectCodec()
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("abcdefghij"), 7)) for _ in range(30)]
    found: Any = m.study(codec, lines, pairs=20, steps=9, python=True, draws=20)
    copies, mixed = found["copy_endpoint"], found["token_mix"]
    assert copies["path_ratio"]["value"] == copies["max_step_share"]["value"] == 1
    assert copies["distinct"]["value"] == pytest.approx(2 / 9)
    assert mixed["path_ratio"]["value"] > 0.9 and mixed["max_step_share"]["value"] < 0.5
    assert found["lerp"]["max_step_share"]["value"] < 0.5 < found["lerp"]["distinct"]["value"]
    assert found["best"] in ("slerp", "lerp", "denoised") and "prior" not in found
    # The noise of this prior is the code itself: its paths are those of slerp.
    through: Any = m.study(
        codec, lines, pairs=20, steps=9, python=True, prior=StandardNormal(8), draws=20
    )
    for name in ("path_ratio", "max_step_share", "distinct", "middle_validity"):
        assert through["prior"][name] == through["slerp"][name] == found["slerp"][name]
    assert found["real_validity"] == found["lerp"]["middle_over_real"]["value"] == 1


def test_a_denoised_path_has_valid_texts_only_if_codes_are_attracted_by_texts():
    class TextCodec(PerfectCodec):
        """Its texts consist of a, b and c: other letters are read as c."""

        def encode_ids(self, ids):
            return np.where(ids > 5, 5, ids)[:, None].astype(float)

        def encode(self, texts):
            return self.encode_ids(self.ids(texts))

    codec: Any = TextCodec()
    a, b = (PerfectCodec().encode([text]) for text in ("gggg", "kkkk"))
    slerp = m.codes_of_paths(codec, "slerp", a, b, 3)
    denoised = m.codes_of_paths(codec, "denoised", a, b, 3)
    np.testing.assert_array_equal(denoised[[0, 2]], slerp[[0, 2]])  # the ends stay
    assert slerp[1].max() > 5 and denoised[1].max() == 5


def test_the_middle_third_is_that_of_the_whole_path():
    for steps, expected in ((9, [3, 4, 5]), (3, [1]), (4, [1, 2]), (5, [2]), (7, [2, 3, 4])):
        assert list(range(steps))[1:-1][m.middle(steps - 2)] == expected
    bad = ["ok", "x x", "ok", "ok", "ok", "x x", "ok"]
    found = m.scores([bad], python=True, draws=5)
    assert found["middle_validity"]["value"] == 1 and found["validity"]["value"] == 3 / 5


def test_the_best_path_is_valid_and_even():
    def row(valid, largest):
        return {"middle_validity": {"value": valid}, "max_step_share": {"value": largest}}

    rows = {"slerp": row(0.3, 0.4), "lerp": row(0.9, 1.0), "denoised": row(0.5, 0.4)}
    assert m.best_path(rows) == "denoised"
    assert m.best_path({"slerp": row(float("nan"), 0.4), "lerp": row(0.0, 0.5)}) == "slerp"
