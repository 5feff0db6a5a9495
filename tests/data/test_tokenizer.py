"""Tests of trained tokenizers: round trips, determinism, cache."""

import pytest
import tokenizers
from tokenizers import decoders, models

from flaxae.data import tokenizer as module
from flaxae.data.config import TokenizerKind
from flaxae.data.embedded import corpus
from flaxae.data.pretrained import check_vocabulary
from flaxae.data.tokenizer import EOS, PAD, SPECIALS, Tokenizer, load_or_train, train
from flaxae.errors import ConfigError


@pytest.fixture(scope="module")
def lines():
    return corpus("python_lines", 3000).examples


@pytest.fixture(scope="module")
def tokenizer(lines):
    return train(lines, 600)


def test_round_trip_of_any_text(tokenizer, lines):
    texts = [*lines, "", " a  b ", "na\u00efve \U0001f600\t\x00", "</s> <pad> <unk>"]
    ids = tokenizer.encode(texts)
    assert tokenizer.decode(ids) == texts
    assert all(3 <= i < tokenizer.vocab_size for row in ids for i in row)


def test_merges_cross_words():
    tokenizer = train([f"return self.{c}" for c in "abcdefgh"], 300)
    ids = tokenizer.encode(["return self.x"])[0]
    assert tokenizer.decode([[i] for i in ids]) == ["return self.", "x"]


def test_decode_stops_at_eos_and_skips_unknown_ids(tokenizer):
    (ids,) = tokenizer.encode(["import os"])
    row = [PAD, *ids, 10**6, EOS, *ids]
    assert tokenizer.decode([row]) == ["import os"]


def test_training_is_repeatable_and_has_the_requested_size(tokenizer, lines):
    assert train(lines, 600).fingerprint == tokenizer.fingerprint
    assert tokenizer.vocab_size == 600


def test_few_lines_give_a_smaller_vocabulary():
    assert train(["abc", "abc"], 4096).vocab_size < 270


def test_a_vocabulary_below_the_bytes_is_an_error(lines):
    with pytest.raises(ConfigError, match="data.vocab_size=100 is below 259"):
        train(lines, 100)


def test_a_trained_tokenizer_is_cached(tmp_path, lines, monkeypatch):
    first = load_or_train(lines, 400, str(tmp_path))
    (path,) = (tmp_path / "tokenizers").iterdir()
    assert Tokenizer.load(str(path)).fingerprint == first.fingerprint
    load_or_train(lines[1:], 400, str(tmp_path))
    assert len(list((tmp_path / "tokenizers").iterdir())) == 2  # other lines, another key
    assert load_or_train(lines, 410, str(tmp_path)).vocab_size == 410
    path.write_text("{torn")
    assert load_or_train(lines, 400, str(tmp_path)).fingerprint == first.fingerprint
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained again"))
    assert load_or_train(lines, 400, str(tmp_path)).fingerprint == first.fingerprint


def test_unreadable_files_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="there is no tokenizer"):
        Tokenizer.load(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a readable"):
        Tokenizer.load(str(tmp_path / "tokenizer.json"))


def test_unigram_is_repeatable_and_decodes_texts_unchanged(lines, tmp_path):
    one, two = (train(lines[:600], 330, TokenizerKind.UNIGRAM) for _ in range(2))
    assert one.fingerprint == two.fingerprint
    assert one.vocab_size <= 330
    texts = [*lines[:50], " a  b ", "na\u00efve \U0001f600\t</s>"]
    ids = one.encode(texts)
    assert one.decode(ids) == texts
    assert all(3 <= i < one.vocab_size for row in ids for i in row)
    kept = load_or_train(lines[:600], 330, str(tmp_path), TokenizerKind.UNIGRAM)
    assert kept.fingerprint == one.fingerprint
    assert load_or_train(lines[:600], 330, str(tmp_path)).fingerprint != one.fingerprint


def test_a_vocabulary_with_gaps_ends_at_its_highest_id():
    vocab = dict(zip(SPECIALS, range(3), strict=True)) | {"a": 7, "b": 40}
    inner = tokenizers.Tokenizer(models.BPE(vocab, []))
    inner.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(inner)
    assert tokenizer.vocab_size == 41
    assert tokenizer.encode(["ab"]) == [[7, 40]]
    assert tokenizer.decode([[7, 20, 40, 41, EOS, 7]]) == ["ab"]
    with pytest.raises(ConfigError, match="embedding of 40: set"):
        check_vocabulary(tokenizer, 40)
    check_vocabulary(tokenizer, 41, pretrained=True)
