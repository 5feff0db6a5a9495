"""Texts of two classes, by their labels."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float

from flaxae.errors import require

_FILMS = ("sst2", "rotten_tomatoes")
SENTIMENT = tuple(tuple(f"{part}/{label}" for part in _FILMS) for label in ("negative", "positive"))


class Coder(Protocol):
    """The methods of an autoencoder that are used; `TextAutoencoder` and `Codec` have them."""

    def encode(self, texts: list[str]) -> Float[np.ndarray, "B L Z"]:
        """Return clean codes."""
        ...

    def decode(self, z: Float[np.ndarray, "B L Z"]) -> list[str]:
        """Return the texts of clean codes."""
        ...

    def on_space(self, z: Float[np.ndarray, "B L Z"]) -> Float[np.ndarray, "B L Z"]:
        """Return changed codes as the model makes codes."""
        ...


class Labelled(NamedTuple):
    """Texts of two classes.

    Attributes:
        texts: the texts.
        labels: True for the second class.
    """

    texts: list[str]
    labels: Bool[np.ndarray, " N"]


def of_classes(
    texts: Sequence[str], labels: Sequence[str], classes: Sequence[Sequence[str]]
) -> Labelled:
    """Return the texts of two classes.

    Args:
        texts: texts.
        labels: the label of each.
        classes: the labels of the first class, and those of the second.
    """
    rows = [
        (t, x in classes[1]) for t, x in zip(texts, labels, strict=True) if x in labels_of(classes)
    ]
    return Labelled([t for t, _ in rows], np.asarray([x for _, x in rows], bool))


def labels_of(classes: Sequence[Sequence[str]]) -> set[str]:
    """Return the labels of all classes."""
    return {label for labels in classes for label in labels}


def classes_of(labels: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return sentiment if the labels have it, else the two most frequent labels.

    Raises:
        ConfigError: if there are fewer than two labels.
    """
    counts = Counter(label for label in labels if label)
    if any(x in counts for x in SENTIMENT[0]) and any(x in counts for x in SENTIMENT[1]):
        return SENTIMENT
    require(len(counts) > 1, "arithmetic of attributes needs texts with two labels")
    return tuple((label,) for label, _ in counts.most_common(2))
