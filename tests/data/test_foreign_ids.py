"""Tests of decoding ids of another tokenizer, as in OPTIMUS's files."""

import json

import datasets
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from flaxae.data import foreign_ids
from flaxae.data.config import TextDataConfig
from flaxae.data.hub import load_examples
from flaxae.errors import ConfigError

TEXTS = [f"The {a} cat sat on mat {i}." for i in range(12) for a in ("black", "white")]
BOS, EOS = 1, 2  # above the vocabulary, as OPTIMUS adds them


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """Write files like GPT-2's with a vocabulary trained on the texts."""
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(TEXTS, vocab_size=300, show_progress=False)
    folder = tmp_path_factory.mktemp("gpt2")
    made.save_model(str(folder))
    return folder, made


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    made = tokenizers.BertWordPieceTokenizer(lowercase=False)
    made.train_from_iterator(TEXTS, vocab_size=120, show_progress=False)
    folder = tmp_path_factory.mktemp("bert")
    made.save_model(str(folder))
    return folder, tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=False)


@pytest.fixture
def optimus(tmp_path, gpt2, bert, monkeypatch):
    """Write a directory of files in the form of wikipedia_json_64_filtered."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    size = gpt2[1].get_vocab_size()
    rows = []
    for text in TEXTS:
        ids = [size + BOS, *gpt2[1].encode(" " + text).ids, size + EOS]
        theirs = bert[1].encode(text).ids
        row = {"bert_token": theirs, "bert_token_length": len(theirs)}
        rows.append(row | {"gpt2_token": ids, "gpt2_token_length": len(ids)})
    folder = tmp_path / "wikipedia_json_64_filtered"
    folder.mkdir()
    (folder / "wiki_0.json").write_text(json.dumps(rows[:12]))
    (folder / "wiki_1.json").write_text(json.dumps(rows[12:]))
    return folder


def test_ids_without_a_tokenizer_are_an_error(optimus):
    with pytest.raises(ConfigError, match="token ids .bert_token, gpt2_token.*data.ids_tokenizer"):
        load_examples(TextDataConfig(name=f"hf:{optimus}"))


def test_the_column_that_fits_the_tokenizer_is_decoded(optimus, gpt2, bert):
    for folder, _ in (gpt2, bert):
        data = TextDataConfig(name=f"hf:{optimus}", ids_tokenizer=str(folder))
        assert load_examples(data).examples == TEXTS


def test_a_tokenizer_that_does_not_fit_the_column_is_an_error(optimus, gpt2, tmp_path):
    named = f"hf:{optimus}:gpt2_token"
    data = TextDataConfig(name=named, ids_tokenizer=str(gpt2[0]), max_lines=5)
    assert load_examples(data).examples == TEXTS[:5]
    other = tokenizers.ByteLevelBPETokenizer()
    other.train_from_iterator(["quite other words"] * 3, vocab_size=270, show_progress=False)
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="did not make the ids of.*gpt2_token 0%"):
        load_examples(TextDataConfig(name=named, ids_tokenizer=str(tmp_path)))


def test_ids_are_read_from_parquet(gpt2, tmp_path):
    table = datasets.Dataset.from_dict({"input_ids": [gpt2[1].encode(t).ids for t in TEXTS]})
    table.to_parquet(str(tmp_path / "a.parquet"))
    data = TextDataConfig(name=f"hf:{tmp_path}/a.parquet", ids_tokenizer=str(gpt2[0]))
    assert load_examples(data).examples == TEXTS


def test_folders_without_a_tokenizer_are_errors(optimus, tmp_path):
    with pytest.raises(ConfigError, match="not a directory with tokenizer.json"):
        load_examples(TextDataConfig(name=f"hf:{optimus}", ids_tokenizer=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_examples(TextDataConfig(name=f"hf:{optimus}", ids_tokenizer=str(tmp_path)))


def test_ids_above_a_gap_are_decoded():
    inner = tokenizers.Tokenizer(models.WordLevel({"a": 3, "b": 40, "?": 41}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    assert foreign_ids._texts(inner, [[3, 40], [40]]) == ["a b", "b"]
    assert foreign_ids._agreement(inner, [[3, 40], [40]]) == 1
