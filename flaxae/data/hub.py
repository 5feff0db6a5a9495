"""From a TextDataConfig to texts, and from texts to the sources that a text family trains on."""

import os

from flaxae.data import embedded, recipes, tables
from flaxae.data.config import TextDataConfig
from flaxae.data.files import corpus_of, read_path
from flaxae.data.loader import TextSource
from flaxae.data.pretrained import check_vocabulary, open_tokenizer
from flaxae.data.text import Corpus, Splits, split_corpus
from flaxae.data.tokenizer import Tokenizer, load_or_train
from flaxae.data.tokens import encode
from flaxae.errors import ConfigError, require


def load_examples(data: TextDataConfig) -> Corpus:
    """The texts that a config asks for.

    Args:
        data: `path` (a text file, one example a line, or a directory of shards) wins over `name`:
            an embedded corpus, `recipe:<name>[:local path]`,
            `hf:<name or local path>[:config][:column]` (a local path takes no config; with one more
            part a hub name takes it as the config, so leave that empty to give only a column:
            `hf:name::column`), or `tfds:<name>[:column]`.

    Raises:
        ConfigError: there is no such data, or it cannot be read.
    """
    name, max_lines = data.path or data.name, data.max_lines
    if data.path:
        return corpus_of(name, read_path(data.path, data.labels), max_lines)
    if name.startswith("recipe:"):
        return corpus_of(name, recipes.parts(data), max_lines)
    if name.startswith("hf:"):
        return corpus_of(name, [tables.hugging_face(data)], max_lines)
    if name.startswith("tfds:"):
        return corpus_of(name, [tables.tfds_part(data)], max_lines)
    if name in embedded.NAMES:
        require(not data.labels, f"data.labels=True: the embedded corpus {name!r} has no labels")
        return embedded.corpus(name, max_lines, data.cache)
    raise ConfigError(
        f"data.name={name!r} is no corpus: give one of {', '.join(embedded.NAMES)},"
        f" {recipes.FORM}, {tables.HF_FORM}, tfds:<name>[:column], or set data.path to a text file"
    )


class TextData:
    """A config's tokenizer, splits and sources.

    Attributes:
        corpus: where the texts come from.
        splits: split name -> lines ("train", "dev", "test_line", for many files "test_file").
        overlap: held-out split -> share of its lines that also stand in files trained on.
        tokenizer: trained on the train split only, or the one that was given.
    """

    def __init__(self, data: TextDataConfig, corpus: Corpus, splits: Splits, tokenizer: Tokenizer):
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
                    encode(self.tokenizer, self.splits[split], data.cache),
                    batch_size=data.batch_size,
                    max_length=data.max_length,
                    num_buckets=data.num_buckets,
                    seed=data.seed,
                    train=train,
                    long_lines=data.long_lines,
                    edges=None if train else self.source("train").edges,
                    bucket_edges=data.bucket_edges,
                )
            except ConfigError as error:
                raise ConfigError(f"split {split!r} of {self.corpus.name}: {error}") from None
        return self._sources[split]

    def lines(self, split: str) -> list[str]:
        """The lines of a split that its source uses (those skipped as too long left out)."""
        return [self.splits[split][i] for i in self.source(split).kept]

    def labels(self, split: str) -> list[str]:
        """The label of each of `lines(split)`. Raises ConfigError where the data has none."""
        if not self.corpus.labels:
            raise ConfigError(
                f"{self.corpus.name} is read without labels: set data.labels=True"
                " (lines of label<tab>text, or a table's column)"
            )
        return [self.corpus.labels[line] for line in self.lines(split)]

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


def text_sources(
    data: TextDataConfig, tokenizer: Tokenizer | None = None, vocab_size: int = 0
) -> TextData:
    """Loads, splits and tokenizes the texts of a config.

    Args:
        data: see `load_examples`.
        tokenizer: the one that an earlier start of the run kept; None: `data.tokenizer`, or one
            trained on the train split, or read from the cache.
        vocab_size: rows of the model's embedding, which must hold the tokenizer's ids; 0: unknown.

    Raises:
        ConfigError: see `load_examples`; the tokenizer is not the model's or not the run's.
    """
    given = _given_tokenizer(data.tokenizer, tokenizer) or tokenizer
    if given is not None and vocab_size:
        check_vocabulary(given, vocab_size)
    corpus = load_examples(data)
    splits = split_corpus(corpus, data.seed)
    if given is None:
        given = load_or_train(splits["train"], data.vocab_size, data.cache, data.tokenizer_kind)
        if vocab_size:
            check_vocabulary(given, vocab_size)
    return TextData(data, corpus, splits, given)


def _given_tokenizer(name: str, kept: Tokenizer | None) -> Tokenizer | None:
    """The config's tokenizer, which must be the one that the run has kept."""
    if not name:
        return None
    if kept is None:
        return open_tokenizer(name)
    # What the run has kept is enough: the files may be gone, but may not have become others.
    if os.path.exists(name) and open_tokenizer(name).vocab != kept.vocab:
        raise ConfigError(
            f"data.tokenizer={name!r} is not the tokenizer that this run began with: its vocabulary"
            " is another; put the old files back, or begin in a new workdir"
        )
    return kept
