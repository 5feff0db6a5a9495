"""The texts to explore a model with: its training texts, or the lines of a file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flaxae.data.files import read_path
from flaxae.data.text import digest, printable
from flaxae.errors import ConfigError
from flaxae.text_autoencoder.protocol import Autoencoder

MAX_TEXTS = 10_000  # texts of a map


@dataclasses.dataclass
class Corpus:
    """Texts, with labels if they have any.

    Attributes:
        name: name to show.
        texts: the texts.
        labels: one label per text, "" where it is missing; None if there are none.
        notes: messages about texts that were left out.
    """

    name: str
    texts: list[str]
    labels: list[str] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """A hash of texts and labels."""
        return digest([*self.texts, "labels", *(self.labels or [])])


def read_corpus(path: str | Path, labels: bool = False) -> Corpus:
    """Read the lines of a UTF-8 text file, or of a directory of .txt and .parquet files.

    Args:
        path: file of texts, one per line.
        labels: whether the lines are label<tab>text.

    Raises:
        ConfigError: if the file is missing, empty, binary or not UTF-8, or is a directory without
            shards.
    """

    def ours(message: str) -> str:
        return printable(message.replace("data.labels=True", "--labels"))

    try:
        parts = list(read_path(str(path), labels, "--corpus"))
    except ConfigError as e:
        raise ConfigError(ours(str(e))) from None
    texts = [text for part in parts for text in part.texts]
    found = [label for part in parts for label in part.labels or []] if labels else None
    notes = [ours(note) for part in parts for note in part.notes]
    if blank := sum(part.blank for part in parts):
        notes.append(f"{blank} records without text left out")
    if missing := sum(not label for label in found or []):
        notes.append(f"{missing} of {len(texts)} texts have no label")
    return Corpus(str(path), texts, found, notes)


def training_corpus(model: Autoencoder) -> Corpus:
    """Return the texts that a model was trained on, with their labels if it has any.

    Raises:
        ConfigError: if the model was saved without its training texts.
    """
    training_labels = getattr(model, "training_labels", lambda: None)
    try:
        labels = training_labels()
        texts = list(model.training_texts())
    except ConfigError as e:
        raise ConfigError(f"{e}; or give texts to explore: --corpus=FILE") from None
    return Corpus("training texts", texts, list(labels) if labels is not None else None)


def select_readable(corpus: Corpus, model: Autoencoder, most: int = MAX_TEXTS) -> Corpus:
    """Select the distinct texts that the model can read.

    Args:
        corpus: the texts to select from.
        model: its tokenizer and maximum length decide.
        most: maximum number of texts; of more texts, always the same random ones are selected.

    Raises:
        ConfigError: if fewer than two texts are left.
    """
    labels: Sequence[str | None] = corpus.labels or [None] * len(corpus.texts)
    backwards = list(zip(reversed(corpus.texts), reversed(labels), strict=True))
    first = dict(backwards) | {text: label for text, label in backwards if label}
    pairs = [(text, first[text]) for text in dict.fromkeys(corpus.texts) if text.strip()]
    notes = list(corpus.notes)
    order = np.random.default_rng(0).permutation(len(pairs))
    kept: list[int] = []
    too_long = 0
    for start in range(0, len(order), most):  # usually the first part is enough
        part = order[start : start + most]
        ids = model.tokenizer.encode([pairs[i][0] for i in part])
        fits = [int(i) for i, row in zip(part, ids, strict=True) if len(row) < model.max_length]
        too_long += len(part) - len(fits)
        kept += fits[: most - len(kept)]
        if len(kept) >= most:
            break
    if too_long:
        plural = "" if too_long == 1 else "s"
        notes.append(f"{too_long} text{plural} of more than {model.max_length} tokens left out")
    if len(pairs) > most:
        notes.append(f"{len(kept)} of {len(pairs)} texts, drawn at random")
    if len(kept) < 2:
        raise ConfigError(
            f"{corpus.name}: the model can read {len(kept)} of {len(pairs)} (distinct, with up to "
            f"{model.max_length} tokens): give at least 2 such texts"
        )
    kept.sort()
    found = [str(pairs[i][1]) for i in kept] if corpus.labels else None
    return Corpus(corpus.name, [pairs[i][0] for i in kept], found, notes)
