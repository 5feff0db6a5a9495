"""Tests of corpora and their splits."""

import pytest

from flaxae.data.files import Part, corpus_of
from flaxae.data.text import MAX_EVAL_LINES, make_corpus, split_corpus
from flaxae.errors import ConfigError


def _corpus(num_files=40, lines=50):
    shared = [f"shared {i}" for i in range(20)]
    texts = [(f"f{n}", [f"line {n} {i}" for i in range(lines)] + shared) for n in range(num_files)]
    return make_corpus("made", texts)


def test_a_corpus_has_distinct_texts_and_all_their_files():
    corpus = make_corpus("c", [("a", ["x", "y", "x"]), ("b", ["y", "z"]), ("c", ["y"])])
    assert corpus.examples == ["x", "y", "z"]
    assert corpus.files == [0, 0, 1]
    assert corpus.also == {1: (1, 2)}


def test_a_line_is_in_one_split_only():
    corpus = _corpus()
    splits = split_corpus(corpus, 0)
    everything = [line for lines in splits.values() for line in lines]
    assert len(everything) == len(set(everything)) == len(corpus.examples)
    assert set(splits) == {"train", "dev", "test_file", "test_line"}


def test_overlap_is_measured_against_the_files_trained_on():
    corpus = _corpus()
    splits = split_corpus(corpus, 0)
    lines = splits["test_file"]
    # One file is held out: its own 50 lines, and the 20 lines that every file contains.
    assert len(lines) == 70
    assert splits.overlap["test_file"] == pytest.approx(20 / 70)
    assert splits.overlap["test_line"] == 1.0
    assert not set(lines) & set(splits["train"])


def test_splits_depend_only_on_the_seed():
    corpus = _corpus()
    assert split_corpus(corpus, 3) == split_corpus(corpus, 3)
    assert split_corpus(corpus, 3) != split_corpus(corpus, 4)
    # The seed chooses the files that are held out as well as the lines.
    held_out = [split_corpus(corpus, seed)["test_file"] for seed in range(4)]
    files = [{x.split()[1] for x in lines if x.startswith("line")} for lines in held_out]
    assert len(set(map(frozenset, files))) > 1


def test_one_file_is_split_by_lines_only():
    splits = split_corpus(make_corpus("mine", [("my.txt", [str(i) for i in range(1000)])]), 0)
    assert {k: len(v) for k, v in splits.items()} == {"train": 965, "dev": 15, "test_line": 20}


def test_held_out_splits_are_capped():
    splits = split_corpus(make_corpus("big", [("f", [str(i) for i in range(200_000)])]), 0)
    assert len(splits["dev"]) == len(splits["test_line"]) == MAX_EVAL_LINES
    assert len(splits["train"]) == 200_000 - 2 * MAX_EVAL_LINES


def test_too_few_lines_is_an_error():
    with pytest.raises(ConfigError, match="at least 10"):
        split_corpus(make_corpus("small", [("f", ["a", "b"])]), 0)


def test_equal_texts_are_one_line():
    corpus = corpus_of("x", [Part("a", ["same"] * 50)])
    with pytest.raises(ConfigError, match=r"x has 1 distinct lines.*49 of 50 lines repeat"):
        split_corpus(corpus, 0)


def test_held_out_files_with_all_training_lines_are_an_error():
    lines = [str(i) for i in range(30)]
    corpus = corpus_of("x", [Part("train", lines), Part("test", lines, split="test_file")])
    with pytest.raises(ConfigError, match="no line is left for training: of 30 .* 30 are in held"):
        split_corpus(corpus, 0)


def test_given_splits_are_kept():
    texts = [(name, [f"{name} {i}" for i in range(100)]) for name in ("train", "valid", "test")]
    corpus = make_corpus("given", texts)
    corpus.held_out = {1: "dev", 2: "test_file"}
    splits = split_corpus(corpus, 0)
    assert splits["test_file"] == texts[2][1]
    assert set(texts[1][1]) <= set(splits["dev"])
    assert all(line.startswith("train") for line in splits["train"] + splits["test_line"])
