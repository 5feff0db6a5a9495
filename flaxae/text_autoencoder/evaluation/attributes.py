"""Arithmetic of attributes: the difference of two classes' mean codes, added to a text's code.

A classifier of n-grams, trained on real texts, says whether the decoded text is of the other class.
The price is the share of the text's other words that are kept. Decoding garbage also changes
verdicts, so a random direction of the same length is measured beside the real one.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float

from flaxae.errors import ConfigError, require
from flaxae.measures.stats import bootstrap, ratio
from flaxae.text_autoencoder.evaluation.ngram_probe import NgramProbe, words
from flaxae.text_autoencoder.samples import subsample, too_few

STRENGTHS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
CHANGED, KEPT = 0.7, 0.5  # the goal: shares of changed verdicts, and of other words that are kept
SHOWN = 10  # texts that a report shows, the first ones
_FILMS = ("sst2", "rotten_tomatoes")
SENTIMENT = tuple(tuple(f"{part}/{label}" for part in _FILMS) for label in ("negative", "positive"))


class Coder(Protocol):
    """The two methods of an autoencoder that are used; `TextAutoencoder` and `Codec` have them."""

    def encode(self, texts: list[str]) -> Float[np.ndarray, "B L Z"]:
        """Return clean codes."""
        ...

    def decode(self, z: Float[np.ndarray, "B L Z"]) -> list[str]:
        """Return the texts of clean codes."""
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


def study(
    model: Coder,
    train: Labelled,
    held_out: Labelled,
    *,
    strengths: Sequence[float] = STRENGTHS,
    most: int = 300,
    codes: int = 3000,
    draws: int = 1000,
) -> dict[str, Any] | str:
    """Measure how far adding a class's direction changes what a text says.

    Texts are used if the classifier names their class correctly; each is moved to the other class.

    Args:
        model: the autoencoder.
        train: training texts, for the direction and the classifier.
        held_out: held-out texts.
        strengths: factors of the difference of mean codes.
        most: maximum number of held-out texts.
        codes: maximum number of training texts whose codes are averaged.
        draws: resamples of the bootstrap over texts.

    Returns:
        `classifier` (its accuracy on all held-out texts), `texts` (number that are moved), `length`
        (of the direction, divided by the mean length of codes), and the curves `direction` and
        `random`. A row of a curve has strength, changed (share of verdicts that are the other
        class's) and kept (share of the other words: those of the original that are not among the
        classifier's marking words, counted with repeats). `direction_slider` and `random_slider`
        have changed and kept if each text is moved only until its verdict changes. `reached` is the
        first row within the goal, or None; `examples` are the first texts at `shown_strength`.
    """
    sides = [int((held_out.labels == side).sum()) for side in (False, True)]
    if missing := too_few(min(sides), 2, "arithmetic of attributes (texts of either class)"):
        return missing
    probe = NgramProbe(*train)
    right = np.flatnonzero(probe.verdicts(held_out.texts) == held_out.labels)
    chosen = right[subsample(len(right), most)]
    if missing := too_few(len(chosen), 2, "arithmetic of attributes (texts classified correctly)"):
        return missing
    texts, labels = [held_out.texts[i] for i in chosen], held_out.labels[chosen]
    direction = class_direction(model, train, codes)
    z = model.encode(texts)
    sign = np.where(labels, -1.0, 1.0)[:, None, None]  # (B, 1, 1)
    noise = np.random.default_rng(0).normal(size=direction.shape)
    random = noise * np.linalg.norm(direction) / np.linalg.norm(noise)
    counted = [Counter(_others(text, probe.marking)) for text in texts]
    out: dict[str, Any] = {
        "classifier": probe.accuracy(*held_out, draws).as_dict(),
        "texts": len(texts),
        "words": float(np.mean([c.total() for c in counted])),
        "goal": {"changed": CHANGED, "kept": KEPT},
    }
    out["length"] = float(np.linalg.norm(direction) / np.mean(np.linalg.norm(z, axis=(1, 2))))
    made: list[list[str]] = []
    for name, step in (("direction", direction), ("random", random)):
        rows, measured = [], []
        for strength in strengths:
            moved = model.decode(_moved(z, strength * sign * step[None]))
            changed = probe.verdicts(moved) != labels
            kept = _kept(counted, moved)
            rows.append(
                {
                    "strength": float(strength),
                    "changed": bootstrap(changed.astype(float), draws=draws).as_dict(),
                    "kept": bootstrap(kept, ratio, draws=draws).as_dict(),
                }
            )
            measured.append((changed, kept))
            if name == "direction":
                made.append(moved)
        out[name], out[f"{name}_slider"] = rows, _slider(measured, draws)
    reached = [row for row in out["direction"] if _in_goal(row)]
    out["reached"] = reached[0] if reached else None
    nearest = max(out["direction"], key=_distance)
    out["shown_strength"] = (reached[0] if reached else nearest)["strength"]
    shown = list(strengths).index(out["shown_strength"])
    plain = model.decode(z[:SHOWN])
    out["examples"] = [
        {"text": text, "second_class": bool(label), "decoded": copy, "moved": moved}
        for text, label, copy, moved in zip(texts, labels, plain, made[shown], strict=False)
    ]
    return out


def class_direction(model: Coder, train: Labelled, most: int) -> Float[np.ndarray, "L Z"]:
    """Return the mean code of the second class minus that of the first.

    Args:
        model: the autoencoder.
        train: training texts.
        most: maximum number of texts that are encoded, half of them of each class.
    """
    means = []
    for side in (False, True):
        rows = np.flatnonzero(train.labels == side)
        rows = rows[subsample(len(rows), most // 2)]
        means.append(model.encode([train.texts[i] for i in rows]).mean(0))
    return means[1] - means[0]


def _moved(z: Float[np.ndarray, "B L Z"], step: Float[np.ndarray, "B L Z"]) -> np.ndarray:
    """Add steps to codes; codes that are all on one sphere stay on it."""
    out = (z + step).astype(np.float32)
    norms = np.linalg.norm(z, axis=-1, keepdims=True)
    if norms.std() > 1e-3 * norms.mean():
        return out
    return out * (norms / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12))


def _others(text: str, marking: frozenset[str]) -> list[str]:
    """Return the words of a text that do not mark a class."""
    return [word for word in words(text) if word not in marking]


def _kept(counted: list[Counter], moved: list[str]) -> Float[np.ndarray, "B 2"]:
    """Return how many of each text's other words are in the decoded text, and their number."""
    found = [(wanted & Counter(words(t))).total() for wanted, t in zip(counted, moved, strict=True)]
    return np.asarray([*zip(found, (c.total() for c in counted), strict=True)], float)


def _slider(measured: list[tuple[np.ndarray, np.ndarray]], draws: int) -> dict[str, Any]:
    """Return the shares if each text is moved only until its verdict changes."""
    changed = np.stack([x for x, _ in measured])  # (S, B)
    kept = np.stack([x for _, x in measured])  # (S, B, 2)
    ever = changed.any(0)
    first = np.where(ever, changed.argmax(0), len(changed) - 1)
    own = kept[first, np.arange(len(first))]  # (B, 2)
    return {
        "changed": bootstrap(ever.astype(float), draws=draws).as_dict(),
        "kept": bootstrap(own, ratio, draws=draws).as_dict(),
    }


def _in_goal(row: dict[str, Any]) -> bool:
    return row["changed"]["value"] >= CHANGED and row["kept"]["value"] >= KEPT


def _distance(row: dict[str, Any]) -> float:
    """Return the smaller of the two shares, each divided by its goal."""
    return min(row["changed"]["value"] / CHANGED, row["kept"]["value"] / KEPT)


def of_texts(
    model: Coder,
    text: Any,
    classes: tuple[tuple[str, ...], ...] = (),
    splits: Sequence[str] = ("test_file", "test_line", "dev"),
    **sizes: Any,
) -> dict[str, Any] | str:
    """Measure the arithmetic of an attribute of a run's texts.

    Args:
        model: the autoencoder.
        text: the run's texts (`data.hub.TextData`), read with labels.
        classes: labels of the first class and of the second; (): those of `classes_of`.
        splits: held-out splits whose texts are moved, those that exist.
        **sizes: see `study`.
    """
    labels = text.labels("train")
    try:
        classes = classes or classes_of(labels)
    except ConfigError as error:
        return f"n/a: {error}"
    held_out: tuple[list[str], list[str]] = ([], [])
    for split in splits:
        if split in text.splits:
            held_out[0].extend(text.lines(split))
            held_out[1].extend(text.labels(split))
    train = of_classes(text.lines("train"), labels, classes)
    found = study(model, train, of_classes(*held_out, classes), **sizes)
    return found if isinstance(found, str) else {"classes": classes, **found}
