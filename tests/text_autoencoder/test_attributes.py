"""Arithmetic of attributes on autoencoders whose codes are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from flaxae.text_autoencoder.evaluation import attribute_report, attributes
from flaxae.text_autoencoder.evaluation.ngram_probe import NgramProbe, words

MARKS, NOUNS = ("bad", "good"), [f"noun{i}" for i in range(12)]


def text_of(mark, first, second):
    return f"A {MARKS[mark]} {NOUNS[first]} , {NOUNS[second]}"


def labelled(count, seed):
    rng = np.random.default_rng(seed)
    rows = [(i % 2, *rng.choice(12, 2, replace=False)) for i in range(count)]
    return attributes.Labelled([text_of(*x) for x in rows], np.asarray([x[0] == 1 for x in rows]))


class ByLabel:
    """An autoencoder whose code is the label in one number, and the nouns in two others."""

    def encode(self, texts):
        rows = [t.split() for t in texts]
        codes = [
            [2.0 * MARKS.index(r[1]) - 1, 10 + NOUNS.index(r[2]), 10 + NOUNS.index(r[4])]
            for r in rows
        ]
        return np.asarray(codes, np.float32)[:, None]  # (B, 1, 3)

    def decode(self, z):
        places = np.rint(z[:, 0, 1:]).astype(int) - 10
        return [text_of(int(x > 0), *p) for x, p in zip(z[:, 0, 0], places % 12, strict=True)]


class Copies(ByLabel):
    """Texts do not follow their codes' label; the last number is the label's too."""

    def decode(self, z):
        return [text_of(0, 0, 1) for _ in z]


@pytest.fixture(scope="module")
def found():
    train, held_out = labelled(200, 0), labelled(60, 1)
    options = {"strengths": (0.0, 0.4, 1.0), "draws": 20}
    return [attributes.study(model(), train, held_out, **options) for model in (ByLabel, Copies)]


def test_a_code_that_is_the_label_changes_it_and_keeps_the_other_words(found):
    row, _ = found
    assert row["classifier"]["value"] == 1 and row["texts"] == 60 and row["words"] == 3
    changed = [x["changed"]["value"] for x in row["direction"]]
    assert changed == [0, 0, 1]  # the difference of the means is 2 in the first number
    assert [x["kept"]["value"] for x in row["direction"]] == pytest.approx([1, 1, 1], abs=0.1)
    assert row["reached"]["strength"] == 1 and row["direction_slider"]["changed"]["value"] == 1
    assert row["random"][2]["kept"]["value"] < 0.9  # moves the nouns
    assert 0.08 < row["length"] < 0.15  # 2, and the nouns 10 to 21
    example = row["examples"][0]
    assert example["decoded"] == example["text"] != example["moved"]
    assert len(row["examples"]) == attributes.SHOWN


def test_a_decoder_of_one_text_changes_half_of_the_verdicts_at_every_strength(found):
    _, row = found
    assert [x["changed"]["value"] for x in row["direction"]] == [0.5] * 3
    assert row["direction"] == row["random"] and row["reached"] is None
    assert row["direction_slider"] == row["random_slider"]
    assert row["direction_slider"]["kept"]["value"] < 0.6


def test_codes_on_a_sphere_stay_on_it():
    z = np.asarray([[[3.0, 4.0]], [[0.0, 5.0]]], np.float32)
    moved = attributes._moved(z, np.ones_like(z))
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), 5, rtol=1e-6)
    other = z * np.asarray([1, 2])[:, None, None]
    np.testing.assert_allclose(attributes._moved(other, np.ones_like(z)), other + 1)


def test_marking_words_are_those_of_the_classes():
    texts, labels = labelled(200, 0)
    probe = NgramProbe(texts, labels)
    assert set(MARKS) >= probe.marking - set(NOUNS) and probe.marking & set(MARKS)
    assert words("It's GOOD, isn't it?") == ["it's", "good", "isn't", "it"]


def test_classes_are_sentiment_or_the_most_frequent_labels():
    labels = ["cola/acceptable"] * 5 + ["sst2/negative", "rotten_tomatoes/positive"]
    assert attributes.classes_of(labels) == attributes.SENTIMENT
    assert attributes.classes_of(["a", "b", "", "b", "c"]) == (("b",), ("a",))
    kept = attributes.of_classes(list("xyz"), ["b", "c", "a"], (("b",), ("a",)))
    assert kept.texts == ["x", "z"] and kept.labels.tolist() == [False, True]


def test_too_few_texts_are_a_sentence_and_a_study_is_readable(found, tmp_path):
    few = attributes.study(ByLabel(), labelled(200, 0), labelled(2, 1))
    assert "needs at least 2" in few
    lines = attribute_report.describe({"classes": (("bad",), ("good",)), **found[0]})
    assert "bad <-> good" in lines[0] and any("at strength 1.0" in line for line in lines)
    texts = SimpleNamespace(splits=("dev",), lines=lambda _: labelled(5, 2).texts)
    path, other = attribute_report.paths(ByLabel(), texts, 9, steps=4)
    assert len(path) == 6 and path[0] == path[1] != path[-1] == path[-2] != other[-1]
    assert attribute_report.figure(found[0], tmp_path / "x.png").is_file()
