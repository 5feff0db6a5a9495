"""Arithmetic of attributes on autoencoders whose codes are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from flaxae.errors import UserError
from flaxae.text_autoencoder.evaluation import attribute_classes, attribute_report, attributes
from flaxae.text_autoencoder.evaluation.ngram_probe import NgramProbe, words

MARKS, NOUNS = ("bad", "good"), [f"noun{i}" for i in range(12)]


def text_of(mark, first, second):
    return f"A {MARKS[mark]} {NOUNS[first]} , {NOUNS[second]}"


def labelled(count, seed):
    rng = np.random.default_rng(seed)
    rows = [(i % 2, *rng.choice(12, 2, replace=False)) for i in range(count)]
    return attribute_classes.Labelled(
        [text_of(*x) for x in rows], np.asarray([x[0] == 1 for x in rows])
    )


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

    def on_space(self, z):
        return z


class Copies(ByLabel):
    """Texts do not follow their codes' label; the last number is the label's too."""

    def decode(self, z):
        return [text_of(0, 0, 1) for _ in z]


@pytest.fixture(scope="module")
def found():
    train, dev, test = labelled(200, 0), labelled(60, 1), labelled(40, 3)
    options = {"strengths": (0.0, 0.4, 1.0), "draws": 20}
    tests = {"test_file": test, "test_line": labelled(2, 4)}
    return [attributes.study(model(), train, dev, tests, **options) for model in (ByLabel, Copies)]


def test_a_code_that_is_the_label_changes_it_and_keeps_the_other_words(found):
    dev = found[0]["dev"]
    assert dev["classifier"]["value"] == 1 and dev["texts"] == 60 and dev["words"] == 3
    changed = [x["changed"]["value"] for x in dev["direction"]]
    assert changed == [0, 0, 1]  # the difference of the means is 2 in the first number
    assert [x["kept"]["value"] for x in dev["direction"]] == pytest.approx([1, 1, 1], abs=0.1)
    assert dev["reached"]["strength"] == 1
    assert 0.08 < found[0]["length"] < 0.15  # 2, and the nouns 10 to 21
    assert dev["largest"]["direction"]["changed"]["value"] == 1
    assert dev["random"][2]["kept"]["value"] < 0.9  # moves the nouns
    assert dev["largest"]["random"]["changed"]["value"] < 0.5


def test_the_strength_of_dev_is_measured_on_each_test_split(found):
    splits = found[0]["splits"]
    assert found[0]["strength"] == 1 and "needs at least 2" in splits["test_line"]
    row = splits["test_file"]
    assert row["texts"] == 40 and row["reached"] and row["direction"]["strength"] == 1
    assert row["direction"]["changed"]["value"] == 1 and row["random"]["kept"]["value"] < 0.9
    example = row["examples"][0]
    assert example["decoded"] == example["text"] != example["moved"]
    assert len(row["examples"]) == attributes.SHOWN


def test_a_decoder_of_one_text_changes_half_of_the_verdicts_at_every_strength(found):
    dev = found[1]["dev"]
    assert [x["changed"]["value"] for x in dev["direction"]] == [0.5] * 3
    assert dev["direction"] == dev["random"] and dev["reached"] is None
    assert dev["largest"]["direction"] == dev["largest"]["random"]
    assert dev["largest"]["direction"]["kept"]["value"] < 0.6


def test_random_directions_are_as_long_and_lie_along_the_codes():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 1, 3)) * [1.0, 10.0, 0.0]  # (N, 1, 3)
    labels = rng.random(400) < 0.5
    z[labels, 0, 0] += 2
    length = np.linalg.norm(attributes.difference(z, labels))
    found = np.asarray(attributes.random_directions(z, labels, 30))
    np.testing.assert_allclose(np.linalg.norm(found, axis=(1, 2)), length, rtol=1e-6)
    spread = np.sqrt(np.square(found[:, 0]).mean(0))
    assert spread[1] > 3 * spread[0] and spread[2] == 0


def test_marking_words_are_those_of_the_classes():
    texts, labels = labelled(200, 0)
    probe = NgramProbe(texts, labels)
    assert probe.marking == set(MARKS)
    assert words("It's GOOD, isn't it?") == ["it's", "good", "isn't", "it"]


def test_classes_are_sentiment_or_the_most_frequent_labels():
    labels = ["cola/acceptable"] * 5 + ["sst2/negative", "rotten_tomatoes/positive"]
    assert attribute_classes.classes_of(labels) == attribute_classes.SENTIMENT
    assert attribute_classes.classes_of(["a", "b", "", "b", "c"]) == (("b",), ("a",))
    kept = attribute_classes.of_classes(list("xyz"), ["b", "c", "a"], (("b",), ("a",)))
    assert kept.texts == ["x", "z"] and kept.labels.tolist() == [False, True]


def test_too_few_texts_are_a_sentence_and_a_study_is_readable(found, tmp_path):
    few = attributes.study(ByLabel(), labelled(200, 0), labelled(2, 1), {})
    assert "needs at least 2" in few
    lines = attribute_report.describe({"classes": (("bad",), ("good",)), **found[0]})
    assert "bad <-> good" in lines[0] and any("on dev: the first: 1" in line for line in lines)
    assert attribute_report.figure(found[0], tmp_path / "x.png").is_file()


def test_a_corpus_without_dev_split_has_no_strength():
    part = labelled(20, 0)
    texts = SimpleNamespace(
        splits=("train", "test_file"),
        lines=lambda _: part.texts,
        labels=lambda _: [MARKS[x] for x in part.labels.astype(int)],
    )
    assert "do not have" in str(attributes.of_texts(ByLabel(), texts))


def test_numbers_of_texts_and_paths_have_ranges():
    for option in ("--texts=3", "--paths=-1"):
        with pytest.raises(UserError, match=f"{option} must"):
            attribute_report.main(["", "runs/none", option])
