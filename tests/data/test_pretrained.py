"""Tests of tokenizers of pretrained models: SentencePiece, byT5, tokenizer.json."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import models

from flaxae.data.pretrained import byte_tokenizer, check_own, check_vocabulary, open_tokenizer
from flaxae.data.tokenizer import Tokenizer, train
from flaxae.errors import ConfigError

LINES = [f"The {a} cat sat on {b} mats, {i} times." for i in range(40) for a, b in ("ab", "xy")]
LINES += ["Na\u00efve caf\u00e9s serve tea.", "</s> is no end here."]


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    """Write a T5-like SentencePiece model into a directory."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        vocab_size=42,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        model_type="unigram",
    )
    folder = tmp_path_factory.mktemp("t5")
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


def test_ids_equal_those_of_sentencepiece(spiece):
    ours = open_tokenizer(str(spiece))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(spiece / "spiece.model"))
    texts = [*LINES[:6], "  two  spaces ", "Na\u00efve \ufb01sh \u4f60", "cat\tmats", ""]
    assert ours.encode(texts) == [theirs.encode(t) for t in texts]
    assert ours.decode(ours.encode(LINES[:3])) == LINES[:3]
    assert ours.vocab_size == 42 + 100
    assert open_tokenizer(str(spiece / "spiece.model")).fingerprint == ours.fingerprint


def test_sentencepiece_is_saved_as_tokenizer_json(spiece, tmp_path):
    ours = open_tokenizer(str(spiece))
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.fingerprint == ours.fingerprint
    assert again.encode(LINES) == ours.encode(LINES)
    assert open_tokenizer(str(tmp_path)).fingerprint == ours.fingerprint


def test_a_text_never_contains_the_end_id(spiece):
    ours = open_tokenizer(str(spiece))
    (ids,) = ours.encode(["a </s> <pad> cat"])
    assert not {0, 1} & set(ids)
    assert ours.decode([ids])[0].endswith("cat")


def test_the_directory_decides_the_number_of_sentinels(spiece, tmp_path):
    (tmp_path / "spiece.model").write_bytes((spiece / "spiece.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 0}))
    assert open_tokenizer(str(tmp_path)).vocab_size == 42


def test_byte_tokenizer_is_byt5s(tmp_path):
    tokenizer = open_tokenizer("byt5")
    text = "na\u00efve \U0001f600\t</s> <pad>"
    (ids,) = tokenizer.encode([text])
    assert ids == [byte + 3 for byte in text.encode()]
    assert tokenizer.decode([ids]) == [text]
    assert tokenizer.encode([chr(i) for i in range(128)]) == [[i + 3] for i in range(128)]
    assert tokenizer.vocab_size == 259
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert open_tokenizer(str(tmp_path)).fingerprint == tokenizer.fingerprint


def test_a_hub_id_is_downloaded(spiece, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, "*.model" in allow_patterns))
        return str(spiece)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    ours = open_tokenizer("google/t5-v1_1-base")
    assert asked == [("google/t5-v1_1-base", True)]
    assert ours.fingerprint == open_tokenizer(str(spiece)).fingerprint


def test_a_hub_id_without_network_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"data\.tokenizer='google/t5': .*`hf download google/t5"):
        open_tokenizer("google/t5")  # conftest.py sets HF_HUB_OFFLINE


def test_stored_truncation_and_padding_are_dropped(tmp_path):
    inner = tokenizers.Tokenizer.from_str(byte_tokenizer()._inner.to_str())
    inner.enable_truncation(4)
    inner.enable_padding(length=8)
    inner.save(str(tmp_path / "tokenizer.json"))
    assert open_tokenizer(str(tmp_path)).encode(["abcdefgh"]) == [[c + 3 for c in b"abcdefgh"]]


def test_unreadable_tokenizers_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="there is no tokenizer"):
        open_tokenizer(str(tmp_path))
    with pytest.raises(ConfigError, match="there is no tokenizer"):
        open_tokenizer("runs/no/t5")
    other = tokenizers.Tokenizer(models.WordLevel({"[PAD]": 0, "the": 1, "[UNK]": 2}, "[UNK]"))
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="give a tokenizer of a T5"):
        open_tokenizer(str(tmp_path))
    (tmp_path / "a.model").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ConfigError, match="not a readable SentencePiece model"):
        open_tokenizer(str(tmp_path / "a.model"))
    (tmp_path / "b.model").write_bytes(b"")
    with pytest.raises(ConfigError, match="not a SentencePiece Unigram model"):
        open_tokenizer(str(tmp_path / "b.model"))


def test_vocabulary_must_match_the_model():
    tokenizer = byte_tokenizer()
    check_vocabulary(tokenizer, 384, pretrained=True)
    check_vocabulary(tokenizer, 4096)
    with pytest.raises(ConfigError, match="259 tokens and the model an embedding of 128"):
        check_vocabulary(tokenizer, 128)
    with pytest.raises(ConfigError, match="trained with another"):
        check_vocabulary(tokenizer, 32128, pretrained=True)


def test_ids_must_match_the_models_own_tokenizer(spiece, tmp_path):
    ours = open_tokenizer(str(spiece))
    check_own(ours, str(spiece))
    check_own(byte_tokenizer(), str(tmp_path))  # the folder contains no tokenizer
    ours.save(tmp_path / "tokenizer.json")
    check_own(ours, str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "spiece.model").write_bytes((spiece / "spiece.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 0}))
    check_own(ours, str(tmp_path))  # without sentinels
    one, other = train(LINES, 290), train([x[::-1] for x in LINES], 290)
    assert one.vocab_size == other.vocab_size
    one.save(tmp_path / "tokenizer.json")
    check_own(one, str(tmp_path))
    with pytest.raises(ConfigError, match=f"id 259 is .* set data.tokenizer={tmp_path}"):
        check_own(other, str(tmp_path))
