"""The texts that are explored: a model's own, or the lines of a file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.data.files import read_path
from flaxae.data.text import digest
from flaxae.errors import ConfigError

MOST = 10_000  # texts of a map


@dataclasses.dataclass
class Corpus:
    """Distinct texts that the model can read.

    Attributes:
        name: what to call it.
        texts: of them.
        labels: of each text; None: it has none.
        notes: what was left out, in words.
    """

    name: str
    texts: list[str]
    labels: list[str] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return digest([*self.texts, "labels", *(self.labels or [])])


def of_file(path: str | Path, labels: bool = False) -> Corpus:
    """The lines of a UTF-8 text file.

    Args:
        path: one text a line.
        labels: lines are label<tab>text.

    Raises:
        ConfigError: it is missing, a directory without shards, empty, binary or not UTF-8.
    """
    try:
        parts = list(read_path(str(path), labels))
    except ConfigError as e:
        told = str(e).replace("data.path=", "--corpus=").replace("data.labels=True", "--labels")
        raise ConfigError(told) from None
    texts = [text for part in parts for text in part.texts]
    found = [label for part in parts for label in part.labels or []] if labels else None
    return Corpus(str(path), texts, found)


def of_model(model: Any) -> Corpus:
    """The texts that a model was trained on, with their labels where it has some.

    Raises:
        ConfigError: they did not come with it.
    """
    try:
        found = model.training_labels() if hasattr(model, "training_labels") else None
        labels = list(found) if found is not None else None
        return Corpus("training texts", list(model.training_texts()), labels)
    except ConfigError as e:
        raise ConfigError(f"{e}; or give texts to explore: --corpus=FILE") from None


def readable(corpus: Corpus, model: Any, most: int = MOST) -> Corpus:
    """The distinct texts that are not too long for the model; of more than `most` a fixed draw.

    Raises:
        ConfigError: fewer than two are left.
    """
    labels: Sequence[str | None] = corpus.labels or [None] * len(corpus.texts)
    first = dict(zip(reversed(corpus.texts), reversed(labels), strict=True))
    pairs = [(text, first[text]) for text in dict.fromkeys(corpus.texts) if text.strip()]
    notes = list(corpus.notes)
    order = np.random.default_rng(0).permutation(len(pairs))
    kept: list[int] = []
    long = 0
    for start in range(0, len(order), most):  # usually the first part is enough
        part = order[start : start + most]
        ids = model.tokenizer.encode([pairs[i][0] for i in part])
        fits = [int(i) for i, row in zip(part, ids, strict=True) if len(row) < model.max_length]
        long += len(part) - len(fits)
        kept += fits[: most - len(kept)]
        if len(kept) >= most:
            break
    if long:
        notes.append(f"{long} texts of more than {model.max_length} tokens left out")
    if len(pairs) > most:
        notes.append(f"{len(kept)} of {len(pairs)} texts, drawn at random")
    if len(kept) < 2:
        raise ConfigError(
            f"{corpus.name} has {len(kept)} texts that the model can read (at most "
            f"{model.max_length} tokens): give at least 2"
        )
    kept.sort()
    found = [str(pairs[i][1]) for i in kept] if corpus.labels else None
    return Corpus(corpus.name, [pairs[i][0] for i in kept], found, notes)
