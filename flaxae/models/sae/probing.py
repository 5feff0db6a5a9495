"""Probes of few latents: how well do they separate two classes of texts?"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.numpy import save_file

from flaxae.activations.collect import Collector
from flaxae.data import sae_probes
from flaxae.data.facts import statements
from flaxae.measures.linear_probe import fit
from flaxae.measures.stats import auroc
from flaxae.sparse_autoencoder.api import SAE

SPARSE = (1, 4, 16, 64)  # numbers of latents
TRAIN_SHARE = 0.7  # of the facts
STRENGTH = 1.0  # of the penalty, on standardised features
FACTS = 300
CITIES = "cities"  # name of the set of facts
LENGTH = 128  # last tokens of a text that are read


def k_sparse_auroc(
    train: Float[np.ndarray, "N F"],
    train_labels: Bool[np.ndarray, "N"],
    test: Float[np.ndarray, "M F"],
    test_labels: Bool[np.ndarray, "M"],
    sizes: Sequence[int] = SPARSE,
) -> dict[int, float]:
    """Return the AUROC of logistic regressions on the k latents whose class means differ most.

    The latents are chosen on the training examples (Gurnee et al. 2023).

    Args:
        train: latents of the training examples.
        train_labels: their labels.
        test: latents of the test examples.
        test_labels: their labels.
        sizes: numbers of latents, k.

    Returns:
        k -> AUROC on the test examples.
    """
    difference = train[train_labels].mean(0) - train[~train_labels].mean(0)
    order = np.argsort(-np.abs(difference), kind="stable")
    widest = min(max(sizes), train.shape[1])
    # One program for all k: a probe of fewer latents has columns of zeros.
    kept = np.arange(widest)[None] < np.asarray(sizes)[:, None]  # (K, widest)
    probe = fit(_picked(train, order, kept), train_labels, np.asarray([STRENGTH], np.float32))
    scores = probe.scores(_picked(test, order, kept))[:, 0]
    return {k: auroc(scores[i], test_labels) for i, k in enumerate(sizes)}


def _picked(latents: np.ndarray, order: np.ndarray, kept: np.ndarray) -> np.ndarray:
    best = latents[:, order[: kept.shape[1]]]
    return np.where(kept[:, None], best[None], 0).astype(np.float32)  # (K, N, widest)


@dataclasses.dataclass(frozen=True)
class LabelledStates:
    """Hidden states at the last tokens of texts with two classes.

    Attributes:
        states: name of a hook -> (N, D).
        labels: (N,).
        cut: number of training examples, which come first.
    """

    states: dict[str, Float[np.ndarray, "N D"]]
    labels: Bool[np.ndarray, "N"]
    cut: int

    def sparse(self, sae: SAE, hook: str) -> dict[int, float]:
        """Return the AUROC of k latents by k.

        Args:
            sae: a dictionary of raw states.
            hook: the hook that it reads.
        """
        latents, cut = np.asarray(sae.encode(jnp.asarray(self.states[hook]))), self.cut
        return k_sparse_auroc(latents[:cut], self.labels[:cut], latents[cut:], self.labels[cut:])

    def dense(self, hook: str) -> float:
        """Return the AUROC of a regression on the states."""
        x, cut = self.states[hook][None], self.cut
        probe = fit(x[:, :cut], self.labels[:cut], np.asarray([STRENGTH], np.float32))
        return auroc(probe.scores(x[:, cut:])[0, 0], self.labels[cut:])


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


def collect(
    source: Any, mark: str, hooks: Sequence[str], layer: int, sets: dict[str, Texts], folder: Path
) -> dict[str, LabelledStates]:
    """Return the states of labelled texts, from a file if they have been read before.

    Args:
        source: the language model, a `states.StateModel`.
        mark: its `states.mark_of`, which names the file: states of another dtype are others.
        hooks: names of hooks, all read in one pass.
        layer: the layer.
        sets: name -> texts, with their labels.
        folder: where the file is, or is written.
    """
    texts = {name: found[0] for name, found in sets.items()}
    key = json.dumps([mark, list(hooks), layer, LENGTH, texts]).encode()
    path = folder / f"probes-{hashlib.sha256(key).hexdigest()[:16]}.safetensors"
    if not path.exists():
        every = [text for found in texts.values() for text in found]
        ids = [row[-LENGTH:] for row in source.encode(every)]
        found = Collector(source.model, hooks, [layer])(ids)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        save_file({hook: np.ascontiguousarray(x[0, :, 0]) for hook, x in found.items()}, temporary)
        temporary.replace(path)
    with safe_open(path, framework="numpy") as file:
        states = {hook: file.get_tensor(hook) for hook in hooks}
    out, start = {}, 0
    for name, (listed, labels, cut) in sets.items():
        end = start + len(listed)
        own = {hook: x[start:end].astype(np.float32) for hook, x in states.items()}
        out[name], start = LabelledStates(own, np.asarray(labels, bool), cut), end
    return out


def city_facts(
    source: Any, sae: SAE, hook: str, layer: int, facts: int = FACTS
) -> dict[str, float]:
    """Return AUROCs of probes of the truth of statements on cities, on facts that they never saw.

    Args:
        source: the language model, a `states.StateModel`.
        sae: a dictionary of raw states.
        hook: the hook that it reads.
        layer: its layer.
        facts: number of facts, each with a true and a false statement.

    Returns:
        "probe_states": AUROC of a regression on the states; "probe_kK": on K latents.
    """
    texts, labels, cut = city_texts(facts)
    states = Collector(source.model, [hook], [layer])(source.encode(texts))[hook][0, :, 0]
    data = LabelledStates({hook: states}, labels, cut)
    sparse = {f"probe_k{k}": value for k, value in data.sparse(sae, hook).items()}
    return {"probe_states": data.dense(hook)} | sparse
