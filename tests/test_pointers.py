"""Files of Git LFS that were not downloaded are named as such wherever a file is opened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models

from flaxae.data import foreign_ids, pretrained
from flaxae.data.config import TextDataConfig
from flaxae.data.hub import load_examples
from flaxae.data.tokenizer import Tokenizer
from flaxae.data.wikipedia.sources import open_source
from flaxae.errors import ConfigError
from flaxae.foreign_json import read_json
from flaxae.lm import chat
from flaxae.models.causal_lm.data import read as read_pairs
from flaxae.peft import hf_config, hf_format
from flaxae.pointers import pointer, require_content
from flaxae.text_autoencoder import saving
from flaxae.text_autoencoder.priors import base
from flaxae.weights import gguf, hf

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1004\n"
TOKENIZER = tokenizers.Tokenizer(models.BPE()).to_str()


def _data(text: str, **fields: str) -> Callable[[Path], object]:
    """Return a function that reads the data of a config; {} in the text is the folder."""

    def read(folder: Path) -> object:
        values: dict[str, Any] = {"name": text} | fields
        return load_examples(TextDataConfig(**{k: v.format(folder) for k, v in values.items()}))

    return read


def _dump(folder: Path) -> object:
    source = open_source(str(folder / "dump.xml.bz2"))
    return [list(source.read(piece)) for piece in source.pieces(1)]


OPENERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "safetensors": ("model.safetensors", hf.Tensors),
    "a shard": ("part.safetensors", hf.Tensors),
    "a pickle": ("pytorch_model.bin", hf.Tensors),
    "an index": ("model.safetensors.index.json", hf.Tensors),
    "a config": ("config.json", hf.read_config),
    "JSON": ("any.json", lambda folder: read_json(folder / "any.json")),
    "GGUF": ("a.gguf", lambda folder: gguf.GGUF(folder / "a.gguf")),
    "an adapter": ("adapter_model.safetensors", hf_format._read),
    "an adapter's pickle": ("adapter_model.bin", hf_format._read),
    "an adapter's config": ("adapter_config.json", hf_config.read_config),
    "a tokenizer": ("tokenizer.json", lambda folder: Tokenizer.load(folder / "tokenizer.json")),
    "a model's tokenizer": ("tokenizer.json", chat.open_tokenizer),
    "a model's settings": ("tokenizer_config.json", chat.open_tokenizer),
    "a chat template": ("chat_template.jinja", chat.open_tokenizer),
    "a T5's tokenizer": ("tokenizer.json", pretrained.own_tokenizer),
    "a T5's settings": ("tokenizer_config.json", pretrained.own_tokenizer),
    "SentencePiece": ("spiece.model", pretrained.own_tokenizer),
    "GPT-2's merges": ("merges.txt", lambda folder: foreign_ids.open_ids_tokenizer(str(folder))),
    "BERT's words": ("vocab.txt", lambda folder: foreign_ids.open_ids_tokenizer(str(folder))),
    "a text": ("a.txt", _data("", path="{}/a.txt")),
    "parquet": ("a.parquet", _data("", path="{}/a.parquet")),
    "a folder of shards": ("a.parquet", _data("", path="{}")),
    "a manifest": ("manifest.json", _data("", path="{}")),
    "a table": ("a.parquet", _data("hf:{}")),
    "a table of JSON": ("a.jsonl", _data("hf:{}")),
    "a table of CSV": ("a.csv", _data("hf:{}/a.csv")),
    "a saved data set": ("data-00000-of-00001.arrow", _data("hf:{}")),
    "prompts": ("a.jsonl", lambda f: read_pairs(TextDataConfig(path=str(f / "a.jsonl")))),
    "a prior": (base.ARRAYS, base.read),
    "an evaluation": (saving.REPORT, saving.read_report),
    "a dump": ("dump.xml.bz2", _dump),
}
# Files beside the pointer, without which it is not opened.
BESIDE = {
    "a shard": {"model.safetensors.index.json": '{"weight_map": {"x": "part.safetensors"}}'},
    "a model's settings": {"tokenizer.json": TOKENIZER},
    "a chat template": {"tokenizer.json": TOKENIZER},
    "GPT-2's merges": {"vocab.json": "{}"},
    "a manifest": {"a.txt": "x"},
    "a saved data set": {"state.json": "{}", "dataset_info.json": "{}"},
    "a prior": {base.JSON: "{}"},
}


@pytest.mark.parametrize("case", OPENERS)
def test_a_pointer_is_named_and_not_read(case: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    folder.mkdir()
    name, read = OPENERS[case]
    for other, text in BESIDE.get(case, {}).items():
        (folder / other).write_text(text)
    (folder / name).write_text(POINTER)
    with pytest.raises(ConfigError, match="Git LFS pointer.*`git lfs pull`") as error:
        read(folder)
    assert name in str(error.value)


@pytest.mark.parametrize("case", ["safetensors", "a config", "GGUF", "a tokenizer"])
def test_a_page_that_was_saved_as_a_file_is_named(case: str, tmp_path: Path):
    name, read = OPENERS[case]
    (tmp_path / name).write_text("\n<!DOCTYPE html><html><head><title>Log in</title>" * 1000)
    with pytest.raises(ConfigError, match=f"{name}: an HTML page.*download it again"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (POINTER.encode(), "Git LFS"),
        (POINTER.encode().replace(b"\n", b"\r\n"), "Git LFS"),
        (b"version https://hawser.github.com/spec/v1\n", "Git LFS"),
        (b"/annex/objects/SHA256E-s1004--4d7a.safetensors\n", "git-annex"),
        (b"", ""),
        (b"version 2\n", ""),
        (b"Read version https://git-lfs.github.com/spec/v1 first.\n", ""),
        (POINTER.encode() + b"\0" * 40000, ""),
    ],
)
def test_only_pointers_are_refused(tmp_path: Path, content: bytes, expected: str):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert bool(pointer(path)) == bool(expected) and expected in pointer(path)
    for missing in (tmp_path, tmp_path / "missing", "gs://bucket/missing"):
        require_content(missing)
