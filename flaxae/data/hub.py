"""From a DataConfig to texts, and from texts to the sources that a text family trains on."""

import os
from typing import Any

import numpy as np

from flaxae.config import ConfigError, DataConfig
from flaxae.data import embedded
from flaxae.data.loader import TextSource
from flaxae.data.text import Corpus, Splits, make_corpus, read_lines, split_corpus
from flaxae.data.tokenizer import Tokenizer, load_or_train

_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_HF_FORM = "hf:<name or local path>[:config][:column]"


def load_examples(data: DataConfig) -> Corpus:
    """The texts that a config asks for.

    Args:
        data: `path` (a text file, one example a line) wins over `name`: an embedded corpus,
            `hf:<name or local path>[:config][:column]` (a local path takes no config; with one more
            part a hub name takes it as the config, so leave that empty to give only a column:
            `hf:name::column`), or `tfds:<name>[:column]`.
    Raises:
        ConfigError: there is no such data, or it cannot be read.
    """
    if data.path:
        return _one_file(data.path, read_lines(data.path), data.max_lines)
    if data.name.startswith("hf:"):
        return _one_file(data.name, _hugging_face(data.name, data.max_lines), data.max_lines)
    if data.name.startswith("tfds:"):
        return _one_file(data.name, _tfds(data.name, data.max_lines), data.max_lines)
    if data.name in embedded.NAMES:
        return embedded.corpus(data.name, data.max_lines)
    raise ConfigError(
        f"data.name={data.name!r} is no corpus: give one of {', '.join(embedded.NAMES)},"
        f" {_HF_FORM}, tfds:<name>[:column], or set data.path to a text file"
    )


class TextData:
    """A config's tokenizer, splits and sources.

    Attributes:
        corpus: where the texts come from.
        splits: split name -> lines ("train", "dev", "test_line", for many files "test_file").
        overlap: held-out split -> share of its lines that also stand in files trained on.
        tokenizer: trained on the train split only, or the one that was given.
    """

    def __init__(self, data: DataConfig, corpus: Corpus, splits: Splits, tokenizer: Tokenizer):
        self.corpus, self.splits, self.tokenizer = corpus, splits, tokenizer
        self.overlap = splits.overlap
        self._data = data
        self._sources: dict[str, TextSource] = {}

    def source(self, split: str) -> TextSource:
        """The batches of a split, made once; eval splits have the train split's shapes.

        Raises:
            ConfigError: there is no such split, or none of its lines is left.
        """
        if split not in self.splits:
            raise ConfigError(f"no split {split!r}: this data has {', '.join(self.splits)}")
        if split not in self._sources:
            data, train = self._data, split == "train"
            try:
                self._sources[split] = TextSource(
                    self.tokenizer.encode(self.splits[split]),
                    batch_size=data.batch_size,
                    max_length=data.max_length,
                    num_buckets=data.num_buckets,
                    seed=data.seed,
                    train=train,
                    long_lines=data.long_lines,
                    edges=None if train else self.source("train").edges,
                )
            except ConfigError as error:
                raise ConfigError(f"split {split!r} of {self.corpus.name}: {error}") from None
        return self._sources[split]

    def lines(self, split: str) -> list[str]:
        """The lines of a split that its source uses (those skipped as too long left out)."""
        return [self.splits[split][i] for i in self.source(split).kept]

    def report(self) -> str:
        """What there is, what was left out, and how much of what is held out training has seen."""
        corpus = self.corpus
        out = [
            f"data: {corpus.name}: {len(corpus.examples)} distinct lines of"
            f" {len(corpus.file_names)} file(s); vocabulary {self.tokenizer.vocab_size}"
        ]
        for split in self.splits:
            source = self.source(split)
            text = f"  {split}: {len(source)} lines"
            if source.skipped or source.truncated:
                text += (
                    f" ({source.skipped} too long and skipped, {source.truncated} truncated,"
                    f" of more than {source.edges[-1]} tokens)"
                )
            if split in self.overlap:
                text += f"; {self.overlap[split]:.1%} also stand in files trained on"
                text += " (held out by line, withheld there)" if split == "test_line" else ""
            if split == "train":
                text += f"; bucket lengths {source.edges}"
                text += f"; {source.batches_per_epoch} steps an epoch"
            out.append(text)
        return "\n".join([*out, *(f"  {note}" for note in (*corpus.notes, *self.splits.notes))])


def text_sources(data: DataConfig, tokenizer: Tokenizer | None = None) -> TextData:
    """Loads, splits and tokenizes the texts of a config.

    Args:
        data: see `load_examples`.
        tokenizer: one of an earlier run; None: trained on the train split, or read from the cache.
    Raises:
        ConfigError: see `load_examples`.
    """
    corpus = load_examples(data)
    splits = split_corpus(corpus, data.seed)
    if tokenizer is None:
        tokenizer = load_or_train(splits["train"], data.vocab_size, data.cache)
    return TextData(data, corpus, splits, tokenizer)


def _one_file(name: str, texts: list[str], max_lines: int) -> Corpus:
    corpus = make_corpus(name, [(name, texts)], max_lines)
    if not corpus.examples:
        raise ConfigError(f"{name!r} holds no text")
    repeated = len(texts) - len(corpus.examples)
    if repeated and not max_lines:
        corpus.notes.append(f"{repeated} of {len(texts)} lines repeat an earlier one: used once")
    return corpus


def _hugging_face(name: str, max_lines: int) -> list[str]:
    import datasets  # slow to import, and only needed here

    target, *rest = name.removeprefix("hf:").split(":")
    local = os.path.exists(target)
    if not target or len(rest) > (1 if local else 2):
        raise ConfigError(f"data.name={name!r} is not {_HF_FORM}")
    config, column = (("", *rest) if local else tuple(rest)) + ("",) * (2 - local - len(rest))
    try:
        loaded = _load_local(target) if local else datasets.load_dataset(target, config or None)
    except ConfigError:
        raise
    except Exception as error:  # the hub's client raises its own kinds, and the network's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "" if local else "; without a network, give a local path (hf:/path) or data.path"
        raise ConfigError(f"data.name={name!r} cannot be loaded: {reason}{hint}") from None
    if isinstance(loaded, dict):
        loaded = loaded["train"] if "train" in loaded else next(iter(loaded.values()))
    return _column(loaded, column, name, max_lines)


def _load_local(target: str) -> Any:
    """A directory or file of data: what save_to_disk wrote, or json, parquet, csv, text."""
    import datasets

    if os.path.isdir(target):
        names = sorted(os.listdir(target))
        if {"dataset_dict.json", "state.json"} & set(names):
            return datasets.load_from_disk(target)
        paths = [os.path.join(target, n) for n in names]
    else:
        paths = [target]
    kinds = {_FORMATS[e] for p in paths if (e := os.path.splitext(p)[1]) in _FORMATS}
    if len(kinds) != 1:
        raise ConfigError(f"{target!r} must hold files of one kind: {', '.join(_FORMATS)}")
    kind = kinds.pop()
    files = [p for p in paths if _FORMATS.get(os.path.splitext(p)[1]) == kind]
    return datasets.load_dataset(kind, data_files={"train": files})


def _column(table: Any, column: str, name: str, max_lines: int) -> list[str]:
    """The non-blank texts of a data set's column."""
    strings = [c for c, kind in table.features.items() if getattr(kind, "dtype", "") in _STRINGS]
    if not column:
        column = "text" if "text" in strings else strings[0] if len(strings) == 1 else ""
    if column not in strings:
        raise ConfigError(
            f"data.name={name!r}: its columns of text are {', '.join(strings) or 'none'};"
            f" name one as the last part of {_HF_FORM}"
        )
    table = table.select(range(min(max_lines, len(table)))) if max_lines else table
    return [text for text in table[column] if text and text.strip()]


_STRINGS = ("string", "large_string")


def _tfds(name: str, max_lines: int) -> list[str]:
    target, _, column = name.removeprefix("tfds:").partition(":")
    column = column or "text"
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ConfigError(
            f"data.name={name!r} needs tensorflow-datasets, which is not installed:"
            " pip install 'flaxae[tfds]'"
        ) from None
    try:
        source: Any = tfds.data_source(target, split="train")
        count = min(len(source), max_lines or len(source))
        texts = [source[i][column] for i in range(count)]
    except Exception as error:  # many kinds: unknown names, no network, unknown columns
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"data.name={name!r} cannot be loaded: {reason}") from None
    if not all(isinstance(text, (bytes, str, np.bytes_)) for text in texts):
        raise ConfigError(f"data.name={name!r}: column {column!r} holds no text")
    return [t if isinstance(t, str) else t.decode("utf-8", "replace") for t in texts]
