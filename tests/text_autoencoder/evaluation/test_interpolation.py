"""Scores of known paths, and the two baselines that bound them."""

from typing import Any

import numpy as np
import pytest

from flaxae.text_autoencoder.evaluation import interpolation as m
from flaxae.text_autoencoder.evaluation.paths import codes_of_paths
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

    def decode(self, codes, assumed_noise=None):
        return self.texts(np.round(codes[:, 0]).astype(int))

    def path_noise(self, codes, a, b):
        return None

    def on_space(self, codes):
        return codes

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
    slerp = codes_of_paths(codec, "slerp", a, b, 3)
    denoised = codes_of_paths(codec, "denoised", a, b, 3)
    np.testing.assert_array_equal(denoised[[0, 2]], slerp[[0, 2]])  # the ends stay
    assert slerp[1].max() > 5 and denoised[1].max() == 5


def test_the_middle_third_is_that_of_the_whole_path():
    for steps, expected in ((9, [3, 4, 5]), (3, [1]), (4, [1, 2]), (5, [2]), (7, [2, 3, 4])):
        assert list(range(steps))[1:-1][m.middle(steps - 2)] == expected
    bad = ["ok", "x x", "ok", "ok", "ok", "x x", "ok"]
    found = m.scores([bad], python=True, draws=5)
    assert found["middle_validity"]["value"] == 1 and found["validity"]["value"] == 3 / 5


def row_of(largest, repeats=0.0, **good):
    values = {name: {"value": x} for name, x in good.items()}
    repetition = {"value": repeats + 0.1, "low": repeats}
    return {**values, "max_step_share": {"value": largest}, "repetition": repetition}


def test_the_best_path_is_valid_and_even():
    rows = {
        "slerp": row_of(0.4, middle_validity=0.3),
        "lerp": row_of(1.0, middle_validity=0.9),
        "denoised": row_of(0.4, middle_validity=0.5),
    }
    real = {"real_repetition": 0.05, "real_ppl": 10.0}
    assert m.best_path(rows, real) == "denoised"
    nothing = {
        "slerp": row_of(0.4, middle_validity=float("nan")),
        "lerp": row_of(0.5, middle_validity=0),
    }
    assert m.best_path(nothing, real) == "slerp"


def test_a_path_that_repeats_words_is_not_the_best():
    rows = {
        "slerp": row_of(0.4, middle_validity=0.3),
        "lerp": row_of(0.2, repeats=0.06, middle_validity=1.0),
    }
    assert m.best_path(rows, {"real_repetition": 0.05}) == "slerp"
    assert m.best_path(rows, {"real_repetition": 0.07}) == "lerp"
    assert m.best_path({"lerp": rows["lerp"]}, {"real_repetition": 0.05}) == "lerp"


def test_without_validity_the_perplexity_decides():
    rows = {
        "slerp": row_of(0.4, path_ratio=0.2, middle_ppl=20.0),
        "lerp": row_of(0.4, path_ratio=0.9, middle_ppl=40.0),
        "denoised": row_of(0.6, path_ratio=0.9, middle_ppl=4.0),  # not better than real lines
    }
    real = {"real_repetition": 0.05, "real_ppl": 10.0}
    assert m.best_path(rows, real) == "denoised"
    assert m.best_path({k: rows[k] for k in ("slerp", "lerp")}, real) == "slerp"


def test_a_report_shows_ten_pairs_that_are_not_selected_and_the_best_path():
    lines = [f"line {i}" for i in range(30)]
    pairs = m.example_pairs(lines, python=False)
    assert len(pairs) == 10 and len({x for pair in pairs for x in pair}) == 20
    assert m.example_pairs(lines, python=True)[:5] == [*m.PAIRS, pairs[0]]
    assert len(m.example_pairs(lines[:5], python=False)) == 2
    codec: Any = PerfectCodec()
    found = m.examples(codec, ["abc", "bcd"], False, {"best": "lerp"}, steps=3)
    assert found[0]["best"] == "lerp" and len(found[0]["best_texts"]) == 3
    assert "best" not in m.examples(codec, ["abc", "bcd"], False, "n/a: too few", steps=3)[0]
    assert m.examples(codec, ["abc"], False) == []


def test_a_study_has_the_perplexity_of_the_middle_texts():
    def likeness(texts):
        value = float(np.mean([len(x) for x in texts]))
        return {"forward_ppl": value, "intervals": {"forward_ppl": [value, value]}}

    codec: Any = PerfectCodec()
    lines = ["abcd", "bcde", "cdef"]
    found: Any = m.study(codec, lines, pairs=4, steps=5, python=False, likeness=likeness, draws=5)
    assert found["real_ppl"] == found["copy_endpoint"]["middle_ppl"]["value"] == 4
    assert found["repetitive"] == [] and found["best"] in ("slerp", "lerp", "denoised")
