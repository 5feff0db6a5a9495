"""Probes of few latents: how well do they separate two classes of texts?"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.numpy import save_file

from flaxae.activations.collect import Collector
from flaxae.data import sae_probes
from flaxae.data.facts import statements
from flaxae.measures.linear_probe import fit
from flaxae.measures.stats import auroc
from flaxae.models.sae.encoders import Encoded

SPARSE = (1, 4, 16, 64)  # numbers of latents
TRAIN_SHARE = 0.7  # of the facts
STRENGTH = 1.0  # of the penalty, on standardised features
FACTS = 300
CITIES = "cities"  # name of the set of facts
LENGTH = 128  # last tokens of a text that are read


def k_sparse_scores(
    train: Float[np.ndarray, "N F"],
    labels: Bool[np.ndarray, "N"],
    test: Float[np.ndarray, "M F"],
    sizes: Sequence[int] = SPARSE,
    scale: Float[np.ndarray, " F"] | None = None,
) -> dict[int, Float[np.ndarray, "M"]]:
    """Return log odds by logistic regressions on the k latents whose class means differ most.

    The latents are chosen on the training examples (Gurnee et al. 2023).

    Args:
        train: latents of the training examples.
        labels: their labels.
        test: latents of the test examples.
        sizes: numbers of latents, k.
        scale: factor of each latent's difference, by which latents are chosen; None: 1.

    Returns:
        k -> log odds of the test examples.
    """
    difference = np.abs(train[labels].mean(0) - train[~labels].mean(0))
    order = np.argsort(-(difference if scale is None else difference * scale), kind="stable")
    widest = min(max(sizes), train.shape[1])
    # One program for all k: a probe of fewer latents has columns of zeros.
    kept = np.arange(widest)[None] < np.asarray(sizes)[:, None]  # (K, widest)
    probe = fit(_picked(train, order, kept), labels, np.asarray([STRENGTH], np.float32))
    scores = probe.scores(_picked(test, order, kept))[:, 0]
    return dict(zip(sizes, scores, strict=True))


def _picked(latents: np.ndarray, order: np.ndarray, kept: np.ndarray) -> np.ndarray:
    best = latents[:, order[: kept.shape[1]]]
    return np.where(kept[:, None], best[None], 0).astype(np.float32)  # (K, N, widest)


def regression_scores(
    train: Float[np.ndarray, "N D"],
    labels: Bool[np.ndarray, "N"],
    test: Float[np.ndarray, "M D"],
    importance: Float[np.ndarray, " D"] | None = None,
) -> Float[np.ndarray, "M"]:
    """Return log odds by a logistic regression on all features.

    Args:
        train: features of the training examples.
        labels: their labels.
        test: features of the test examples.
        importance: factor of each standardised feature: the penalty on a feature of small
            importance is large. None: 1.
    """
    if importance is not None:
        mean, std = train.mean(0), train.std(0)
        gain = importance / np.where(std > 0, std, 1)
        train, test = (train - mean) * gain, (test - mean) * gain
    strengths = np.asarray([STRENGTH], np.float32)
    probe = fit(train[None], labels, strengths, standardise=importance is None)
    return probe.scores(test[None])[0, 0]


@dataclasses.dataclass(frozen=True)
class LabelledStates:
    """Hidden states at the last tokens of texts with two classes.

    Attributes:
        states: name of a hook -> states of layers, (N, L, D).
        labels: (N,).
        cut: number of training examples, which come first.
    """

    states: dict[str, Float[np.ndarray, "N L D"]]
    labels: Bool[np.ndarray, "N"]
    cut: int

    def auroc(self, scores: Float[np.ndarray, "M"]) -> float:
        """Return the AUROC of scores of the test examples."""
        return auroc(scores, self.labels[self.cut :])

    def dense(self, hook: str) -> float:
        """Return the AUROC of a regression on the states."""
        x, cut = rearrange(self.states[hook], "N L D -> N (L D)"), self.cut
        return self.auroc(regression_scores(x[:cut], self.labels[:cut], x[cut:]))

    def sparse_scores(
        self, found: Encoded, *, weighted: bool = False
    ) -> dict[int, Float[np.ndarray, "M"]]:
        """Return k -> log odds of the test examples by regressions on k latents.

        Args:
            found: the latents of these states.
            weighted: whether the latents are chosen by their contributions to the weighted output.
        """
        x, cut, scale = found.latents, self.cut, found.scale if weighted else None
        return k_sparse_scores(x[:cut], self.labels[:cut], x[cut:], scale=scale)

    def sparse(self, found: Encoded) -> dict[int, float]:
        """Return k -> AUROC of a regression on k latents."""
        return {k: self.auroc(scores) for k, scores in self.sparse_scores(found).items()}

    def probe_scores(
        self, found: Encoded, *, weighted: bool = False
    ) -> dict[str, Float[np.ndarray, "M"]]:
        """Return log odds of the test examples by probes of the output and of few latents.

        Args:
            found: latents and outputs of these states.
            weighted: whether the features of the output are multiplied by their importance, and
                the latents chosen by their contributions to this product.

        Returns:
            "output": by a regression on the output; "kK": on K latents.
        """
        x, cut, importance = found.output, self.cut, found.importance if weighted else None
        output = regression_scores(x[:cut], self.labels[:cut], x[cut:], importance)
        sparse = self.sparse_scores(found, weighted=weighted)
        return {"output": output} | {f"k{k}": scores for k, scores in sparse.items()}


Texts = tuple[list[str], np.ndarray, int]  # texts, labels, number of training examples


def city_texts(count: int = FACTS) -> Texts:
    """Return statements on cities. Both statements of a fact are on the same side of the split."""
    found = statements("city", count)
    labels = np.asarray([s.label for s in found])
    return [s.text for s in found], labels, 2 * round(TRAIN_SHARE * count)


def texts_of(name: str, train: int, test: int) -> Texts:
    """Return texts of a data set of sae-probes, those of training first."""
    data = sae_probes.read(name)
    order = np.concatenate(sae_probes.split(data, train, test))
    return [data.texts[i] for i in order], data.labels[order], train


def read_states(
    source: Any, hooks: Sequence[str], layers: Sequence[int], texts: Sequence[str]
) -> dict[str, Float[np.ndarray, "N L D"]]:
    """Return the states at the last token of texts, by hook.

    Args:
        source: the language model, a `states.StateModel`.
        hooks: names of hooks, all read in one pass.
        layers: the layers.
        texts: the texts, of which at most the last LENGTH tokens are read.
    """
    ids = [row[-LENGTH:] for row in source.encode(list(texts))]
    found = Collector(source.model, hooks, layers)(ids)
    return {hook: x[0].astype(np.float32) for hook, x in found.items()}


def collect(
    source: Any,
    mark: str,
    hooks: Sequence[str],
    layers: Sequence[int],
    sets: dict[str, Texts],
    folder: Path,
) -> dict[str, LabelledStates]:
    """Return the states of labelled texts, from a file if they have been read before.

    Args:
        source: the language model, a `states.StateModel`.
        mark: its `states.mark_of`, which names the file: states of another dtype are others.
        hooks: names of hooks, all read in one pass.
        layers: the layers.
        sets: name -> texts, with their labels.
        folder: where the file is, or is written.
    """
    texts = {name: found[0] for name, found in sets.items()}
    key = json.dumps([mark, list(hooks), list(layers), LENGTH, texts]).encode()
    path = folder / f"probes-{hashlib.sha256(key).hexdigest()[:16]}.safetensors"
    if not path.exists():
        every = [text for found in texts.values() for text in found]
        found = read_states(source, hooks, layers, every)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file({hook: np.ascontiguousarray(x) for hook, x in found.items()}, temporary)
        temporary.replace(path)
    with safe_open(path, framework="numpy") as file:
        states = {hook: file.get_tensor(hook) for hook in hooks}
    out, start = {}, 0
    for name, (listed, labels, cut) in sets.items():
        end = start + len(listed)
        own = {hook: x[start:end] for hook, x in states.items()}
        out[name], start = LabelledStates(own, np.asarray(labels, bool), cut), end
    return out


def city_states(
    source: Any, hook: str, layers: Sequence[int], facts: int = FACTS
) -> LabelledStates:
    """Return the states of true and false statements on cities.

    Args:
        source: the language model, a `states.StateModel`.
        hook: name of the hook.
        layers: its layers.
        facts: number of facts, each with a true and a false statement.
    """
    texts, labels, cut = city_texts(facts)
    return LabelledStates(read_states(source, [hook], layers, texts), labels, cut)


def city_aurocs(data: LabelledStates, hook: str, encoded: Encoded) -> dict[str, float]:
    """Return AUROCs of probes of the truth of statements, on facts that they never saw.

    Args:
        data: the states of the statements.
        hook: the hook of the states that are encoded.
        encoded: their latents and outputs.

    Returns:
        "probe_states": AUROC of a regression on the states; "probe_output": on the output;
        "probe_kK": on K latents. If features have an importance, "probe_weighted_output": on the
        output with features multiplied by their importance; "probe_weighted_kK": on the K latents
        whose contributions to this product differ most between true and false statements.
    """
    found = {"probe_states": data.dense(hook)}
    for weighted in (False, True) if encoded.importance is not None else (False,):
        prefix = "probe_weighted" if weighted else "probe"
        scores = data.probe_scores(encoded, weighted=weighted)
        found |= {f"{prefix}_{name}": data.auroc(x) for name, x in scores.items()}
    return found
