"""Tests of the texts and sources that a config names."""

import builtins
import json

import datasets
import pytest

from flaxae.data.config import TextDataConfig
from flaxae.data.hub import load_examples, text_sources
from flaxae.data.pretrained import byte_tokenizer
from flaxae.data.tokenizer import Tokenizer
from flaxae.errors import ConfigError

TEXTS = [f"text number {i}" for i in range(40)]


def _config(tmp_path, **changes):
    options = dict(cache=str(tmp_path / "cache"), batch_size=8, vocab_size=300, max_length=32)
    return TextDataConfig(**{**options, **changes})


def test_a_text_file_becomes_sources(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text("\n".join([*TEXTS * 3, "x" * 500]) + "\n")
    data = text_sources(_config(tmp_path, path=str(path)))
    assert sorted(data.splits) == ["dev", "test_line", "train"]
    assert data.source("train") is data.source("train")
    assert data.source("dev").batch_spec == data.source("train").batch_spec
    report = data.report()
    assert "train: 1 texts of more than" in "".join(data.notes())
    assert "80 of 121 lines repeat" in report and "too long and skipped" in report
    assert len(data.lines("train")) == len(data.source("train"))
    with pytest.raises(ConfigError, match="no split 'test_file'"):
        data.source("test_file")
    again = text_sources(_config(tmp_path, path=str(path)), tokenizer=data.tokenizer)
    assert again.source("train").fingerprint == data.source("train").fingerprint


def test_embedded_corpora_hold_out_files(tmp_path):
    data = text_sources(_config(tmp_path, max_lines=6000, vocab_size=500))
    assert set(data.overlap) == {"dev", "test_file", "test_line"}
    assert "held out completely" in data.report()
    for split in data.splits:
        source = data.source(split)
        assert source.batch_spec == data.source("train").batch_spec


def _write(tmp_path, kind):
    table = datasets.Dataset.from_dict({"text": TEXTS, "title": TEXTS[::-1], "n": [0] * 40})
    folder = tmp_path / kind
    folder.mkdir()
    if kind == "saved":
        table.save_to_disk(str(folder))
    elif kind == "parquet":
        table.to_parquet(str(folder / "a.parquet"))
    elif kind == "text":
        (folder / "a.txt").write_text("\n".join(TEXTS))
    else:
        lines = [
            json.dumps({"text": a, "title": b}) for a, b in zip(TEXTS, TEXTS[::-1], strict=True)
        ]
        (folder / "a.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("kind", ["saved", "parquet", "text", "jsonl"])
def test_local_data_sets_are_read(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    folder = _write(tmp_path, kind)
    assert load_examples(TextDataConfig(name=f"hf:{folder}")).examples == TEXTS
    assert load_examples(TextDataConfig(name=f"hf:{folder}", max_lines=5)).examples == TEXTS[:5]
    if kind != "text":
        titles = load_examples(TextDataConfig(name=f"hf:{folder}:title")).examples
        assert titles == TEXTS[::-1]
        with pytest.raises(ConfigError, match="its columns of text are text, title"):
            load_examples(TextDataConfig(name=f"hf:{folder}:nothing"))


def test_hub_names_split_into_config_and_column(monkeypatch):
    calls = []

    def load(name, config):
        calls.append((name, config))
        return {
            "test": datasets.Dataset.from_dict({"a": [], "b": []}),
            "train": datasets.Dataset.from_dict({"a": TEXTS, "b": TEXTS[::-1]}),
        }

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_examples(TextDataConfig(name="hf:o/n:c:b")).examples == TEXTS[::-1]
    assert load_examples(TextDataConfig(name="hf:o/n::a")).examples == TEXTS
    assert calls == [("o/n", "c"), ("o/n", None)]
    with pytest.raises(ConfigError, match="columns of text are a, b"):
        load_examples(TextDataConfig(name="hf:o/n"))


def test_an_unreachable_hub_is_a_clear_error(monkeypatch):
    def load(*_):
        raise ConnectionError("could not reach the hub\nwith a long\ntrace")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigError, match="could not reach the hub; without a network") as error:
        load_examples(TextDataConfig(name="hf:owner/name"))
    assert "\n" not in str(error.value)


class GatedRepoError(OSError):
    """As huggingface_hub's: the message is long, and begins with what matters least."""


GATED = "401 Client Error. (Request ID: x)\n\nAccess to dataset o/n is restricted."
CONFIGS = "Config name is missing.\nPlease pick one among the available configs: ['a', 'b']"


@pytest.mark.parametrize(
    ("error", "cause", "messages"),
    [
        (RuntimeError("An error occurred"), ValueError("row 7: bad\nvalue"), ["row 7: bad value"]),
        (RuntimeError("An error occurred"), OSError(28, "No space left"), ["No space left"]),
        (ValueError(CONFIGS), None, ["missing. Please pick", "['a', 'b']; the form is hf:<name"]),
        (GatedRepoError(GATED), None, ["o/n is restricted. (check the name", "hf auth login"]),
        (KeyError("splits"), None, ["'splits' is missing"]),
        (RuntimeError(), None, ["RuntimeError"]),
        (
            ConnectionError("Couldn't reach the Hub\nat all"),
            OSError("certificate verify failed"),
            ["reach the Hub; cause: certificate verify failed; without a network, give"],
        ),
    ],
)
def test_the_cause_of_a_failed_download_is_shown(monkeypatch, error, cause, messages):
    def load(*_):
        raise error from cause

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigError) as found:
        load_examples(TextDataConfig(name="hf:owner/name"))
    text = str(found.value)
    assert all(message in text for message in messages) and "\n" not in text
    network = "without a network, give a local path"
    assert (network in text) == isinstance(error, ConnectionError)


@pytest.mark.parametrize("name", ["hf:/no/such/folder", "hf:./typo", "hf:no/such/file.jsonl"])
def test_a_missing_local_table_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(ConfigError, match="there is nothing at"):
        load_examples(TextDataConfig(name=name))


def test_a_broken_local_table_names_its_cause(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match="cannot be loaded: .*Parquet magic bytes not found"):
        load_examples(TextDataConfig(name=f"hf:{tmp_path}/a.parquet"))


def test_missing_tfds_is_a_clear_error(monkeypatch):
    real = builtins.__import__

    def no_tfds(name, *rest, **more):
        if name == "tensorflow_datasets":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_tfds)
    with pytest.raises(ConfigError, match=r"flaxae\[tfds\]"):
        load_examples(TextDataConfig(name="tfds:lm1b"))


@pytest.mark.parametrize("name", ["nothing", "hf:", "hf:a:b:c:d"])
def test_unknown_names_are_errors(name):
    with pytest.raises(ConfigError, match="hf:<name or local path>"):
        load_examples(TextDataConfig(name=name))


def test_a_given_tokenizer_is_used(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text("\n".join(TEXTS))
    data = _config(tmp_path, path=str(path), tokenizer="byt5")
    text = text_sources(data, vocab_size=384)
    assert text.tokenizer.fingerprint == byte_tokenizer().fingerprint
    with pytest.raises(ConfigError, match="259 tokens and the model an embedding of 100"):
        text_sources(data, vocab_size=100)


def test_a_run_keeps_its_tokenizer(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text("\n".join(TEXTS))
    first = text_sources(_config(tmp_path, path=str(path))).tokenizer
    first.save(tmp_path / "tokenizer.json")
    data = _config(tmp_path, path=str(path), tokenizer=str(tmp_path / "tokenizer.json"))
    kept = Tokenizer.load(tmp_path / "tokenizer.json")
    assert text_sources(data, kept).tokenizer is kept
    byte_tokenizer().save(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match="is not the tokenizer that this run started with"):
        text_sources(data, kept)
    (tmp_path / "tokenizer.json").unlink()
    assert text_sources(data, kept).tokenizer is kept
    with pytest.raises(ConfigError, match="there is no tokenizer"):
        text_sources(data)


def test_fixed_buckets_and_unigram_are_used(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text("\n".join(TEXTS + [f"{text} and some more of it" for text in TEXTS]))
    data = _config(
        tmp_path, path=str(path), tokenizer="byt5", max_length=64, bucket_edges=(16, 32, 64)
    )
    text = text_sources(data)
    assert set(text.source("train").batch_spec) == {"016", "064"}
    assert text.source("dev").batch_spec == text.source("train").batch_spec
