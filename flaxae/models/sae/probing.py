"""Probes of few latents: how well do they separate true from false statements?"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from flaxae.activations.collect import Collector
from flaxae.data.facts import statements
from flaxae.measures.linear_probe import fit
from flaxae.measures.stats import auroc
from flaxae.sparse_autoencoder.api import SAE

SPARSE = (1, 4, 16, 64)  # numbers of latents
TRAIN_SHARE = 0.7  # of the facts
STRENGTH = 1.0  # of the penalty, on standardised features
FACTS = 300


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
    found = statements("city", facts)
    ids = source.encode([s.text for s in found])
    states = Collector(source.model, [hook], [layer])(ids)[hook][0, :, 0]  # (N, D)
    labels = np.asarray([s.label for s in found])
    cut = 2 * round(TRAIN_SHARE * facts)  # both statements of a fact are on one side
    latents = np.asarray(sae.encode(jnp.asarray(states)))
    dense = fit(states[None, :cut], labels[:cut], np.asarray([STRENGTH], np.float32))
    out = {"probe_states": auroc(dense.scores(states[None, cut:])[0, 0], labels[cut:])}
    sparse = k_sparse_auroc(latents[:cut], labels[:cut], latents[cut:], labels[cut:])
    return out | {f"probe_k{k}": value for k, value in sparse.items()}
