"""All probes on the states of one trained adapter, with what may be compared and what may not."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flaxae.errors import require
from flaxae.models.probes.api import Probe
from flaxae.models.probes.files import Origin, Shown
from flaxae.models.probes.fitted import BOTH_SIDES, REGRESSIONS, Fitted, chosen_arm
from flaxae.models.probes.fitting.ccs import CCS
from flaxae.models.probes.fitting.linear import (
    STRENGTHS,
    TTPD,
    Logistic,
    MassMean,
    best_layer,
    fit_layers,
)
from flaxae.models.probes.fitting.networks import MLP, LayerConv
from flaxae.models.probes.fitting.ranking import Ranking
from flaxae.models.probes.importance import hook_importance
from flaxae.models.probes.metrics import auroc_of
from flaxae.models.probes.run_states import PAIRS, States
from flaxae.models.probes.state_collector import adapter_hash
from flaxae.models.probes.table import StateTable, check_evaluation, layer_differences
from flaxae.sparse_autoencoder.api import SAE
from flaxae.sparse_autoencoder.importance import important_features

SHRINKAGE = 0.5
TOP = 0.1  # share of features that the selecting probe keeps


def fit(
    kind: str,
    table: StateTable,
    hook: str,
    arm: str | None = None,
    *,
    polarity: Sequence[int] = (1, -1),
    model: Any = None,
    layer: int | None = None,
    seed: int = 0,
) -> Fitted:
    """Fit a probe on the training rows that ask for the truth.

    Args:
        kind: one of KINDS.
        table: all rows; only those of the splits train and dev are read.
        hook: name of the hidden states.
        arm: see `StateTable.features`; None: both sides for ranking probes, the base for CCS, else
            the adapter.
        polarity: (1,): affirmative statements only; (1, -1): negated ones too, if there are any.
        model: with an IA3 adapter, for the kinds "weighted" and "selected".
        layer: the layer; None: that of the logistic regression with the best AUROC on dev. The
            penalty of regressions is chosen on dev too.
        seed: seed of probes that start at random.

    Raises:
        ConfigError: if there is no such kind, it reads another arm, or training rows lack a class.
    """
    arm, polarity = chosen_arm(kind, arm), tuple(polarity)
    train = table.training(lie=0, polarity=polarity)
    dev = table.where(split="dev", lie=0, polarity=polarity)
    record = train.record()
    check_evaluation(record, dev)
    if kind == "layer_conv":
        probe = LayerConv.fit(np.moveaxis(train.features(hook, arm), 0, 1), train.labels, seed=seed)
        return Fitted(kind, probe, hook, arm, train.layers, record, polarity=polarity)
    if kind not in REGRESSIONS and layer is not None:
        require(layer in train.layers, f"no states of layer {layer}; there are {train.layers}")
        probe = _one_layer(kind, train, hook, arm, layer, seed)
        return Fitted(kind, probe, hook, arm, (layer,), record, polarity=polarity)
    importance = _importance(kind, model, hook, arm, train)
    layers, probe = _regression(kind, train, dev, hook, arm, importance, layer)
    if kind not in REGRESSIONS:
        probe = _one_layer(kind, train, hook, arm, layers[0], seed)
    return Fitted(kind, probe, hook, arm, layers, record, polarity=polarity)


def fit_latents(
    table: StateTable, sae: SAE, arm: str = "adapter", polarity: Sequence[int] = (1, -1)
) -> Fitted:
    """Fit a regression on the latents of a dictionary, which was trained on other texts.

    Args:
        table: all rows; only those of the splits train and dev are read.
        sae: a dictionary of the hook and layer that its origin names.
        arm: "base" or "adapter".
        polarity: see `fit`.

    Raises:
        ConfigError: if the table has no states of its hook and layer.
    """
    hook, layer = sae.origin.hook, sae.origin.layer
    require(layer is not None, "the dictionary does not say of which layer it is")
    theirs, ours = (Path(name).name for name in (sae.origin.model, table.model))
    require(
        not (theirs and ours) or theirs == ours,
        f"the dictionary is of {theirs}, and the states are of {ours}: open one of that model",
    )
    require(arm in ("base", "adapter"), f"arm {arm!r}: a dictionary reads one side's states")
    require(
        hook in table.states and layer in table.layers,
        f"the dictionary reads {hook} of layer {layer}, and there are {', '.join(table.states)} "
        f"of layers {table.layers}: collect these states",
    )
    at = table.layers.index(layer)
    train = table.training(lie=0, polarity=tuple(polarity))
    dev = table.where(split="dev", lie=0, polarity=tuple(polarity))
    record = train.record()
    check_evaluation(record, dev)

    def encode(x: np.ndarray) -> np.ndarray:
        """Return the latents of states."""
        return np.asarray(sae.encode(jnp.asarray(x)))

    grid = fit_layers(encode(train.features(hook, arm)[at])[None], train.labels, STRENGTHS)
    _, best, _ = best_layer(grid, encode(dev.features(hook, arm)[at])[None], dev.labels)
    layers = (table.layers[at],)
    return Fitted("sae", best, hook, arm, layers, record, encode, tuple(polarity))


def _importance(
    kind: str, model: Any, hook: str, arm: str, table: StateTable
) -> Float[np.ndarray, "L F"] | None:
    """Return weights of the features of each layer; None: all are 1."""
    if kind not in ("weighted", "selected"):
        return None
    require(model is not None, f"{kind}: give the model, whose adapter weights the features")
    found = adapter_hash(model)
    require(
        found == table.adapter,
        f"{kind}: the model has adapter {found or 'none'}, and the states are of {table.adapter}: "
        "give the model that they were collected from",
    )
    weights = hook_importance(model, hook, table.layers)
    if kind == "selected":
        weights = np.asarray(important_features(jnp.asarray(weights), TOP), np.float32)
    return np.concatenate([weights, weights], axis=-1) if arm == "both" else weights


def _regression(
    kind: str,
    train: StateTable,
    dev: StateTable,
    hook: str,
    arm: str,
    importance: Float[np.ndarray, "L F"] | None,
    layer: int | None,
) -> tuple[tuple[int, ...], Logistic]:
    """Return the layers and the regression with the best AUROC on dev."""
    x, of_dev = train.features(hook, arm), dev.features(hook, arm)
    layers: list[tuple[int, ...]] = [(one,) for one in train.layers]
    if kind == "layer_diff":
        x, of_dev = layer_differences(x), layer_differences(of_dev)
        layers = list(zip(train.layers, train.layers[1:], strict=False))
    if layer is not None:
        kept = [i for i, read in enumerate(layers) if read[-1] == layer]
        require(bool(kept), f"no states of layer {layer}; there are {train.layers}")
        x, of_dev, layers = x[kept], of_dev[kept], [layers[i] for i in kept]
        importance = None if importance is None else importance[kept]
    grid = fit_layers(x, train.labels, STRENGTHS, importance)
    at, best, _ = best_layer(grid, of_dev, dev.labels)
    return layers[at], best


def _one_layer(kind: str, train: StateTable, hook: str, arm: str, layer: int, seed: int) -> Any:
    """Fit a probe of one layer that is not a regression of `fit_layers`."""
    labels = train.labels
    if kind in BOTH_SIDES:
        return Ranking.fit(train.sides(hook, layer), train.p, labels, loss=kind.split("_")[1])
    if kind == "ccs":
        return CCS.fit(train.sides(f"{PAIRS}{hook}", layer), labels, seed=seed)
    x = train.features(hook, arm)[train.layers.index(layer)]
    makers: dict[str, Callable[[], Any]] = {
        "mass_mean": lambda: MassMean.fit(x, labels),
        "lda": lambda: MassMean.fit(x, labels, shrinkage=SHRINKAGE),
        "ttpd": lambda: TTPD.fit(x, labels, train["polarity"], train["dataset"]),
        "mlp": lambda: MLP.fit(x, labels, seed=seed),
    }
    return makers[kind]()


def layer_aurocs(table: StateTable, hook: str, arm: str) -> dict[int, float]:
    """Return the AUROC on dev of the best regression of each layer."""
    train = table.training(lie=0)
    dev = table.where(split="dev", lie=0)
    grid = fit_layers(train.features(hook, arm), train.labels)
    x = dev.features(hook, arm)
    return {
        layer: max(auroc_of(probe.scores(x[i]), dev.labels) for probe in grid[i])
        for i, layer in enumerate(table.layers)
    }


def as_probe(states: States, fitted: Fitted) -> Probe:
    """Return a fitted probe with its model, which can be saved and applied to texts.

    Args:
        states: of the run.
        fitted: fitted on them.
    """
    require(fitted.encode is None, "a probe of a dictionary's latents cannot be saved")
    task, settings = states.loaded.task, states.collector.settings
    sets: dict[str, Shown] = {}
    for split in ("train", "dev", "test", "ood"):
        for prompt in task.prompts(task.splits[split], (False,)):
            example, shots = prompt.example, tuple((s.prompt, s.answer) for s in prompt.shots)
            sets.setdefault(example.dataset, Shown(example.choices, shots))
    origin = Origin(
        model=states.loaded.config.pretrained,
        base=states.base,
        hook=fitted.hook,
        layers=fitted.layers,
        arm=fitted.arm,
        adapter=states.table.adapter,
        format=settings.style.format.value,
        system=settings.style.system,
        sets=sets,
        weights=task.options.weights,
        dtype=task.options.dtype,
        digest=fitted.record.digest,
        seed=fitted.record.seed,
    )
    return Probe(fitted.probe, origin, states.loaded.model, task.tokenizer)
