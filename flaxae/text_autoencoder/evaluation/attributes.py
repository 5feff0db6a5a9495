"""Arithmetic of attributes: the difference of two classes' mean codes, added to a text's code.

A classifier of n-grams, trained on real texts, says whether the decoded text is of the other class.
The price is the share of the text's other words that are kept. Decoding garbage also changes
verdicts, so random directions of the same length are measured beside the real one.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from flaxae.errors import ConfigError
from flaxae.measures.stats import bootstrap, ratio
from flaxae.text_autoencoder.evaluation.attribute_classes import (
    Coder,
    Labelled,
    classes_of,
    of_classes,
)
from flaxae.text_autoencoder.evaluation.ngram_probe import NgramProbe, words
from flaxae.text_autoencoder.samples import subsample, too_few

STRENGTHS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
CHANGED, KEPT = 0.7, 0.5  # the goal: shares of changed verdicts, and of other words that are kept
RANDOM = 3  # random directions, over which controls are averaged
SHOWN = 10  # texts that a report shows, the first ones
TESTS = ("test_file", "test_line")  # splits on which the chosen strength is measured


def study(
    model: Coder,
    train: Labelled,
    dev: Labelled,
    tests: dict[str, Labelled],
    *,
    strengths: Sequence[float] = STRENGTHS,
    most: int = 300,
    codes: int = 3000,
    draws: int = 1000,
) -> dict[str, Any] | str:
    """Measure how far adding a class's direction changes what a text says.

    Texts are used if the classifier names their class correctly; each is moved to the other class.
    The strength is chosen on dev texts, and measured on test texts.

    Args:
        model: the autoencoder.
        train: training texts, for the direction and the classifier.
        dev: held-out texts on which the strength is chosen.
        tests: other held-out texts by the name of their split.
        strengths: factors of the difference of mean codes.
        most: maximum number of texts per split.
        codes: maximum number of training texts whose codes are averaged.
        draws: resamples of the bootstrap over texts.

    Returns:
        `strength`, `goal`, `length` (of the direction, divided by the mean length of dev codes),
        `dev` and `splits`. A row has strength, changed (share of verdicts that
        are the other class's) and kept (share of the other words: those of the original that are
        not among the classifier's marking words, counted with repeats). All parts have rows of
        the `direction` and of `random` ones (see `random_directions`), classifier (its accuracy on
        all texts of the split), texts (number that are moved) and words (per text). `dev` has one
        row per strength; `reached`, the first one within the goal or None; and `largest`, changed
        and kept if each text is moved only until its verdict changes, or by the last strength. That
        is the largest number of verdicts over all strengths, an optimistic bound. The strength is
        that of `reached`, else the one nearest to the goal. `splits` has for each test split one
        row, at this strength, and the first texts as `examples`; or a sentence if there are too few
        texts.
    """
    moving = _Moving(model, train, codes, most, draws)
    chosen = moving.prepared(dev)
    if isinstance(chosen, str):
        return chosen
    curves, _ = moving.curves(chosen, strengths)
    reached = [row for row in curves["direction"] if _in_goal(row)]
    best = reached[0] if reached else max(curves["direction"], key=_distance)
    strength = best["strength"]
    out: dict[str, Any] = {
        "strength": strength,
        "goal": {"changed": CHANGED, "kept": KEPT},
        "length": moving.length / float(np.linalg.norm(chosen.codes, axis=(1, 2)).mean()),
        "dev": {**moving.about(chosen), **curves, "reached": reached[0] if reached else None},
        "splits": {},
    }
    for name, part in tests.items():
        found = moving.prepared(part)
        if isinstance(found, str):
            out["splits"][name] = found
            continue
        curves, made = moving.curves(found, [strength])
        rows = {key: curves[key][0] for key in ("direction", "random")}
        plain = model.decode(found.codes[:SHOWN])
        shown = zip(found.texts, found.labels, plain, made[:SHOWN], strict=False)
        out["splits"][name] = {
            **moving.about(found),
            **rows,
            "reached": _in_goal(rows["direction"]),
            "examples": [
                {"text": text, "second_class": bool(label), "decoded": copy, "moved": moved}
                for text, label, copy, moved in shown
            ],
        }
    return out


class _Prepared(NamedTuple):
    """Texts that are moved, with their codes, the words that must be kept, and the accuracy."""

    texts: list[str]
    labels: Bool[np.ndarray, " B"]
    codes: Float[np.ndarray, "B L Z"]
    counted: list[Counter]
    accuracy: dict[str, float]


class _Moving:
    """A classifier and directions, which move texts of any split."""

    def __init__(self, model: Coder, train: Labelled, codes: int, most: int, draws: int):
        self._model, self._most, self._draws = model, most, draws
        self._probe = NgramProbe(*train)
        z, labels = encoded(model, train, codes)
        direction = difference(z, labels)
        self.length = float(np.linalg.norm(direction))
        self._steps = {"direction": [direction], "random": random_directions(z, labels)}

    def prepared(self, held_out: Labelled) -> _Prepared | str:
        """Return the texts whose class the classifier names; a sentence if there are too few."""
        what = "arithmetic of attributes"
        fewest = min(int((held_out.labels == side).sum()) for side in (False, True))
        if missing := too_few(fewest, 2, f"{what} (texts of either class)"):
            return missing
        right = np.flatnonzero(self._probe.verdicts(held_out.texts) == held_out.labels)
        rows = right[subsample(len(right), self._most)]
        if missing := too_few(len(rows), 2, f"{what} (texts classified correctly)"):
            return missing
        texts = [held_out.texts[i] for i in rows]
        counted = [Counter(_others(text, self._probe.marking)) for text in texts]
        accuracy = self._probe.accuracy(*held_out, self._draws).as_dict()
        return _Prepared(texts, held_out.labels[rows], self._model.encode(texts), counted, accuracy)

    def about(self, given: _Prepared) -> dict[str, Any]:
        """Return the accuracy of the classifier, the number of texts and their other words."""
        words_per_text = float(np.mean([c.total() for c in given.counted]))
        return {"classifier": given.accuracy, "texts": len(given.texts), "words": words_per_text}

    def curves(
        self, given: _Prepared, strengths: Sequence[float]
    ) -> tuple[dict[str, Any], list[str]]:
        """Return rows of the direction and of random ones, and texts at the last strength."""
        sign = np.where(given.labels, -1.0, 1.0)[:, None, None]  # (B, 1, 1)
        out: dict[str, Any] = {"largest": {}}
        shown: list[str] = []
        for name, steps in self._steps.items():
            changed = np.zeros((len(steps), len(strengths), len(given.texts)))  # (R, S, B)
            kept = np.zeros((*changed.shape, 2))  # (R, S, B, 2)
            for r, step in enumerate(steps):
                for i, strength in enumerate(strengths):
                    moved = self._model.decode(
                        self._model.on_space(given.codes + strength * sign * step[None])
                    )
                    changed[r, i] = self._probe.verdicts(moved) != given.labels
                    kept[r, i] = _kept(given.counted, moved)
                    shown = moved if name == "direction" else shown
            out[name] = [
                {"strength": float(strength), **self._shares(changed[:, i], kept[:, i])}
                for i, strength in enumerate(strengths)
            ]
            out["largest"][name] = self._shares(*_until_changed(changed, kept))
        return out, shown

    def _shares(self, changed: Float[np.ndarray, "R B"], kept: Float[np.ndarray, "R B 2"]) -> Any:
        """Return both shares, means over directions, with their intervals over texts."""
        return {
            "changed": bootstrap(changed.mean(0), draws=self._draws).as_dict(),
            "kept": bootstrap(kept.mean(0), ratio, draws=self._draws).as_dict(),
        }


def encoded(
    model: Coder, train: Labelled, most: int
) -> tuple[Float[np.ndarray, "N L Z"], Bool[np.ndarray, " N"]]:
    """Return codes and classes of training texts.

    Args:
        model: the autoencoder.
        train: training texts.
        most: maximum number of texts that are encoded, half of them of each class.
    """
    sides = [np.flatnonzero(train.labels == side) for side in (False, True)]
    rows = np.concatenate([x[subsample(len(x), most // 2)] for x in sides])
    return model.encode([train.texts[i] for i in rows]), train.labels[rows]


def difference(
    z: Float[np.ndarray, "N L Z"], labels: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, "L Z"]:
    """Return the mean code of the second class minus that of the first."""
    return z[labels].mean(0) - z[~labels].mean(0)


def random_directions(
    z: Float[np.ndarray, "N L Z"], labels: Bool[np.ndarray, " N"], count: int = RANDOM
) -> list[Float[np.ndarray, "L Z"]]:
    """Return directions of the same length without the classes: differences of shuffled labels.

    Their covariance is that of the codes: they are as often along the codes' wide directions as
    differences between codes are.
    """
    length, rng = np.linalg.norm(difference(z, labels)), np.random.default_rng(0)
    found = [difference(z, rng.permutation(labels)) for _ in range(count)]
    return [x * (length / max(np.linalg.norm(x), 1e-12)) for x in found]


def _others(text: str, marking: frozenset[str]) -> list[str]:
    """Return the words of a text that do not mark a class."""
    return [word for word in words(text) if word not in marking]


def _kept(counted: list[Counter], moved: list[str]) -> Float[np.ndarray, "B 2"]:
    """Return how many of each text's other words are in the decoded text, and their number."""
    found = [(wanted & Counter(words(t))).total() for wanted, t in zip(counted, moved, strict=True)]
    return np.asarray([*zip(found, (c.total() for c in counted), strict=True)], float)


def _until_changed(
    changed: Float[np.ndarray, "R S B"], kept: Float[np.ndarray, "R S B 2"]
) -> tuple[Float[np.ndarray, "R B"], Float[np.ndarray, "R B 2"]]:
    """Return both measures if each text is moved only until its verdict changes."""
    ever = changed.any(1)
    first = np.where(ever, changed.argmax(1), changed.shape[1] - 1)  # (R, B)
    own = np.take_along_axis(kept, first[:, None, :, None], axis=1)[:, 0]
    return ever.astype(float), own


def _in_goal(row: dict[str, Any]) -> bool:
    return row["changed"]["value"] >= CHANGED and row["kept"]["value"] >= KEPT


def _distance(row: dict[str, Any]) -> float:
    """Return the smaller of the two shares, each divided by its goal."""
    return min(row["changed"]["value"] / CHANGED, row["kept"]["value"] / KEPT)


def of_run(loaded: Any, model: Coder, **sizes: Any) -> dict[str, Any] | str:
    """Return `of_texts` of a run (see `flaxae.load`); a sentence if its texts have no labels."""
    if not loaded.task.data_config.labels:
        return "n/a: the texts have no labels (data.labels)"
    return of_texts(model, loaded.task.text, **sizes)


def of_texts(
    model: Coder, text: Any, classes: tuple[tuple[str, ...], ...] = (), **sizes: Any
) -> dict[str, Any] | str:
    """Measure the arithmetic of an attribute of a run's texts.

    Args:
        model: the autoencoder.
        text: the run's texts (`data.hub.TextData`), read with labels.
        classes: labels of the first class and of the second; (): those of `classes_of`.
        **sizes: see `study`.

    Returns:
        The result of `study` with `classes`; a sentence if there are too few texts, labels or words
        that texts have in common.
    """
    labels = text.labels("train")
    try:
        classes = classes or classes_of(labels)
    except ConfigError as error:
        return f"n/a: {error}"
    parts = {
        split: of_classes(text.lines(split), text.labels(split), classes)
        for split in ("dev", *TESTS)
        if split in text.splits
    }
    if "dev" not in parts:
        return "n/a: the strength is chosen on the dev split, which these texts do not have"
    train = of_classes(text.lines("train"), labels, classes)
    try:
        found = study(model, train, parts.pop("dev"), parts, **sizes)
    except ConfigError as error:  # the classifier cannot be trained
        return f"n/a: {error}"
    return found if isinstance(found, str) else {"classes": classes, **found}
