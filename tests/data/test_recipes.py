"""Tests of recipes on small files in the published formats."""

import json
import sys
import types

import datasets
import pytest

from flaxae.data.config import TextDataConfig
from flaxae.data.hub import load_examples, text_sources
from flaxae.data.sentences import sentence_status, split_sentences
from flaxae.errors import ConfigError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))


def _load(name, path="", **changes):
    return load_examples(TextDataConfig(name=f"recipe:{name}{path and f':{path}'}", **changes))


def test_snli_is_read_from_json_files(tmp_path):
    folder = tmp_path / "snli_1.0"
    folder.mkdir()
    for split, number in (("train", 3), ("dev", 1), ("test", 1)):
        rows = [
            {"sentence1": f"A man {split} {i}.", "sentence2": "He runs.", "gold_label": "neutral"}
            for i in range(number)
        ]
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"snli_1.0_{split}.jsonl").write_text(text)
    (folder / "README.md").write_text("about")
    (folder / "snli_1.0_dev.jsonl").rename(folder / "snli_1.0_dev.JSONL")
    (folder / "old.zip").write_bytes(b"PK\x03\x04")
    corpus = _load("snli", folder)
    assert corpus.examples[:4] == ["A man train 0.", "A man train 1.", "A man train 2.", "He runs."]
    assert corpus.examples[4:] == ["A man dev 0.", "A man test 0."]
    assert corpus.held_out == {1: "dev", 2: "test_file"}
    assert f"{folder}: not used: old.zip" in corpus.notes
    with pytest.raises(ConfigError, match="has no label"):
        _load("snli", folder, labels=True)


def test_ptb_is_read_from_text_files(tmp_path):
    for split in ("train", "valid", "test"):
        lines = [f" the <unk> {split} rose N % {i} \n" for i in range(30)]
        (tmp_path / f"ptb.{split}.txt").write_text("".join(lines))
    data = text_sources(
        TextDataConfig(name=f"recipe:ptb:{tmp_path}", cache="", vocab_size=300, batch_size=4)
    )
    assert data.splits["test_file"] == [f"the <unk> test rose N % {i}" for i in range(30)]
    assert sum("valid" in line for line in data.splits["dev"]) == 30
    assert not any("valid" in x or "test" in x for x in data.splits["train"])


def test_yelp_is_read_from_text_files(tmp_path):
    (tmp_path / "sentiment.train.0").write_text("it was bad .\n")
    (tmp_path / "sentiment.train.1").write_text("it was good .\n")
    (tmp_path / "sentiment.dev.1").write_text("really good .\n")
    corpus = _load("yelp", tmp_path, labels=True)
    assert corpus.labels == {"it was bad .": "0", "it was good .": "1", "really good .": "1"}
    assert corpus.held_out == {2: "dev"}
    for old in tmp_path.glob("sentiment.*"):
        old.unlink()
    (tmp_path / "train.txt").write_text("1\tit was good .\n0\tit was bad .\n")
    assert _load("yelp", tmp_path).examples == ["it was good .", "it was bad ."]
    assert _load("yelp", tmp_path, labels=True).labels["it was good ."] == "1"
    (tmp_path / "train.txt").write_text("it was good .\n")
    with pytest.raises(ConfigError, match="train.txt' has no labels"):
        _load("yelp", tmp_path, labels=True)


def test_reviews_are_split_into_sentences(tmp_path):
    folder = tmp_path / "plain_text"
    folder.mkdir()
    text = (
        'The food was great!\\n\\nThe \\"chef\\" said hello to us. Yes. Tom &amp; I will go back.'
    )
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["1", "2"]), "text": datasets.Value("string")}
    )
    table = datasets.Dataset.from_dict({"text": [text], "label": [1]}, features=features)
    table.to_parquet(str(folder / "train-00000-of-00001.parquet"))
    table.to_parquet(str(folder / "test-00000-of-00001.parquet"))
    corpus = _load("yelp", tmp_path, labels=True)
    sentences = ["The food was great!", 'The "chef" said hello to us.', "Tom & I will go back."]
    assert corpus.examples == sentences
    assert set(corpus.labels.values()) == {"2"} or set(corpus.labels.values()) == {"1"}
    assert corpus.held_out == {1: "test_file"}


def test_yahoo_takes_titles_and_answers(tmp_path):
    rows = {
        "topic": [3],
        "question_title": ["Why is the sky so blue?"],
        "question_content": [""],
        "best_answer": ["Light of short waves is scattered more.<br />Look it up on a clear day."],
    }
    saved = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)})
    saved.save_to_disk(str(tmp_path / "saved"))
    corpus = _load("yahoo", tmp_path / "saved", labels=True)
    assert corpus.examples == [
        "Why is the sky so blue?",
        "Light of short waves is scattered more.",
        "Look it up on a clear day.",
    ]
    assert set(corpus.labels.values()) == {"3"}


def test_hub_data_sets_keep_their_splits(monkeypatch):
    def load(name, config):
        assert (name, config) == ("ptb-text-only/ptb_text_only", "penn_treebank")
        return {s: datasets.Dataset.from_dict({"sentence": [f"a {s}"]}) for s in splits}

    splits = ("train", "validation", "test")
    monkeypatch.setattr(datasets, "load_dataset", load)
    corpus = _load("ptb")
    assert corpus.examples == ["a train", "a validation", "a test"]
    assert corpus.held_out == {1: "dev", 2: "test_file"}


def test_lm1b_is_read_from_tfds(monkeypatch):
    def data_source(name, split):
        assert name == "lm1b"
        return [{"text": f"{split} {i} .".encode()} for i in range(3)]

    monkeypatch.setitem(
        sys.modules, "tensorflow_datasets", types.SimpleNamespace(data_source=data_source)
    )
    corpus = _load("lm1b")
    assert corpus.examples[0] == "train 0 ." and corpus.examples[-1] == "test 2 ."
    assert corpus.held_out == {1: "test_file"}


def test_wikipedia_reads_its_shards(tmp_path):
    with pytest.raises(ConfigError, match="python -m flaxae.data.wikipedia"):
        _load("wikipedia", cache=str(tmp_path))
    folder = tmp_path / "wikipedia"
    folder.mkdir()
    (folder / "a.txt").write_text("A sentence of it.\n")
    assert _load("wikipedia", cache=str(tmp_path)).examples == ["A sentence of it."]
    assert _load("wikipedia", folder).examples == ["A sentence of it."]


def test_missing_data_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="recipes are snli, yelp"):
        _load("nothing")
    with pytest.raises(ConfigError, match="there is nothing at"):
        _load("ptb", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="contains no data files"):
        _load("ptb", tmp_path)

    def load(*_):
        raise ConnectionError("no route to the hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigError, match="no route to the hub; .*recipe:snli:/path") as error:
        _load("snli")
    assert "\n" not in str(error.value)


def test_sentences_are_split_and_rated():
    text = (
        'Dr. J. R. Smith met Mr. Li in the U.S. Senate. "He left." Then it rained! See no. 5.\nEnd'
    )
    assert split_sentences(text) == [
        "Dr. J. R. Smith met Mr. Li in the U.S. Senate.",
        '"He left."',
        "Then it rained!",
        "See no. 5.",
        "End",
    ]
    assert sentence_status("It is a good day.") == "kept"
    assert sentence_status("He left.") == "short"
    assert sentence_status("It is a good day " * 20 + ".") == "long"
    for bad in ("a good day it is.", "It is a day", "See [[this]] and {{that}}.", "1 2 3 4 5 6."):
        assert sentence_status(bad) == "not_a_sentence"
