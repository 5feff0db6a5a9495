"""Corpora, splits and batches of the texts that a TextDataConfig names."""

import os

from flaxae.data import embedded, labelled, recipes, tables
from flaxae.data.config import TextDataConfig
from flaxae.data.files import corpus_of, read_path
from flaxae.data.labels import MISSING
from flaxae.data.loader import TextSource
from flaxae.data.pretrained import check_vocabulary, open_tokenizer
from flaxae.data.text import Corpus, Splits, split_corpus
from flaxae.data.tokenizer import Tokenizer, load_or_train
from flaxae.data.tokens import encode
from flaxae.errors import ConfigError, require

NAMES = (*embedded.NAMES, labelled.NAME)


def load_examples(data: TextDataConfig) -> Corpus:
    """Read the texts that a config names.

    Args:
        data: `path` (a text file with one example per line, or a directory of shards) takes
            precedence over `name`: an embedded corpus, "sentences[:part,part]" (labelled English
            of the package sae-probes, see `labelled`), `recipe:<name>[:local path]`,
            `hf:<name or local path>[:config][:column]` (a local path has no config; for a name on
            the Hub leave the config empty to give only a column: `hf:name::column`), or
            `tfds:<name>[:column]`.

    Raises:
        ConfigError: if there is no such data, or it cannot be read.
    """
    name, max_lines = data.path or data.name, data.max_lines
    if data.path:
        return corpus_of(name, read_path(data.path, data.labels), max_lines)
    if name.startswith("recipe:"):
        return corpus_of(name, recipes.parts(data), max_lines)
    if name.startswith("hf:"):
        return corpus_of(name, tables.hugging_face(data), max_lines)
    if name.startswith("tfds:"):
        return corpus_of(name, [tables.tfds_part(data)], max_lines)
    if name.partition(":")[0] == labelled.NAME:
        parts = name.split(":", 1)[1].split(",") if ":" in name else ()
        return labelled.corpus(max_lines, data.labels, parts=parts)
    if name in embedded.NAMES:
        require(not data.labels, f"data.labels=True: the embedded corpus {name!r} has no labels")
        return embedded.corpus(name, max_lines, data.cache)
    raise ConfigError(
        f"data.name={name!r} is not a corpus: give one of {', '.join(NAMES)},"
        f" {recipes.FORM}, {tables.HF_FORM}, tfds:<name>[:column], or set data.path to a text file"
    )


class TextData:
    """Tokenizer, splits and sources of a config.

    Attributes:
        corpus: all texts.
        splits: split name -> lines ("train", "dev", "test_line", for many files "test_file").
        overlap: held-out split -> share of its lines that also occur in training files.
        tokenizer: the given tokenizer, or one trained on the train split.
    """

    def __init__(self, data: TextDataConfig, corpus: Corpus, splits: Splits, tokenizer: Tokenizer):
        self.corpus, self.splits, self.tokenizer = corpus, splits, tokenizer
        self.overlap = splits.overlap
        self._data = data
        self._sources: dict[str, TextSource] = {}

    def source(self, split: str) -> TextSource:
        """Return the batches of a split; all splits have the shapes of the train split.

        Raises:
            ConfigError: if there is no such split, or none of its lines can be used.
        """
        if split not in self.splits:
            raise ConfigError(f"no split {split!r}: the splits are {', '.join(self.splits)}")
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
        """Return the lines of a split that its source uses, without skipped lines."""
        return [self.splits[split][i] for i in self.source(split).kept]

    def labels(self, split: str) -> list[str]:
        """Return the label of each of `lines(split)`, "" where it is missing.

        Raises:
            ConfigError: if the texts were read without labels.
        """
        if not self.corpus.labels:
            raise ConfigError(
                f"{self.corpus.name} is read without labels: set data.labels=True"
                " (lines of label<tab>text, or a table's column)"
            )
        return [self.corpus.labels.get(line, MISSING) for line in self.lines(split)]

    def notes(self) -> list[str]:
        """Return remarks on the corpus, its splits, and texts that are too long."""
        out = [*self.corpus.notes, *self.splits.notes]
        for split, source in self._sources.items():
            length = source.edges[-1]
            for count, word in ((source.skipped, "left out"), (source.truncated, "cut")):
                if count:
                    out.append(f"{split}: {count} texts of more than {length} tokens are {word}")
        return out

    def report(self) -> str:
        """Describe the data: sizes, skipped lines, and overlap of held-out splits with training."""
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
                    f" longer than {source.edges[-1]} tokens)"
                )
            if split in self.overlap:
                text += f"; {self.overlap[split]:.1%} also occur in training files"
                text += (
                    " (held out by line, and not trained on there)" if split == "test_line" else ""
                )
            if split == "train":
                text += f"; bucket lengths {source.edges}"
                text += f"; {source.batches_per_epoch} steps per epoch"
            out.append(text)
        return "\n".join([*out, *(f"  {note}" for note in (*corpus.notes, *self.splits.notes))])


def text_sources(
    data: TextDataConfig, tokenizer: Tokenizer | None = None, vocab_size: int = 0
) -> TextData:
    """Load, split and tokenize the texts of a config.

    Args:
        data: see `load_examples`.
        tokenizer: the tokenizer that an earlier start of the run has stored; None: `data.tokenizer`
            or, if that is empty, one trained on the train split (or read from the cache).
        vocab_size: rows of the model's embedding, which limit the tokenizer's ids; 0: unknown.

    Raises:
        ConfigError: see `load_examples`; the tokenizer does not belong to the model or the run.
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


def _given_tokenizer(name: str, stored: Tokenizer | None) -> Tokenizer | None:
    """Open the config's tokenizer, which must equal the one that the run has stored."""
    if not name:
        return None
    if stored is None:
        return open_tokenizer(name)
    # The stored tokenizer is enough: the files may be gone, but they must not have changed.
    if os.path.exists(name) and open_tokenizer(name).vocab != stored.vocab:
        raise ConfigError(
            f"data.tokenizer={name!r} is not the tokenizer that this run started with: it has"
            " another vocabulary; restore the old files, or use a new workdir"
        )
    return stored
