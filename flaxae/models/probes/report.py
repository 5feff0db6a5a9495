"""Numbers of a run: its answers, all probes, prompted and trained lies.

Every number is of rows that were not fitted on. Thresholds of 1 % false positives are those of
control rows, which are in no other split.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from flaxae.errors import ConfigError
from flaxae.measures.stats import finite
from flaxae.models.probes.experiment import (
    BOTH_SIDES,
    Fitted,
    fit,
    fit_latents,
    group_ids,
    layer_aurocs,
)
from flaxae.models.probes.fitting.conformal import prediction_sets, set_thresholds
from flaxae.models.probes.fitting.ranking import Dummy
from flaxae.models.probes.metrics import control_threshold, intervals
from flaxae.models.probes.run_states import States
from flaxae.models.probes.table import StateTable, check_arms, check_controls, known_threshold
from flaxae.sparse_autoencoder.api import SAE

ARMS = ("base", "adapter", "both")
HOOK, FEATURES = "resid_out", "mlp_post"
MEASURES = ("auroc", "bal_acc", "acc", "recall")
ALPHA = 0.1  # of conformal sets


def evaluated_sets(table: StateTable) -> dict[str, StateTable]:
    """Return the rows of each test set and OOD set that ask for the truth, by name."""
    out = {}
    for split in ("test", "ood"):
        rows = table.where(split=split, lie=0)
        for name in sorted(set(rows["dataset"])):
            out[f"{split} {name}"] = rows.where(dataset=str(name))
    return out


def probes_of(states: States, sae: SAE | None) -> tuple[list[Fitted], dict[str, Any]]:
    """Fit all probes of the report.

    Args:
        states: of a run.
        sae: a dictionary of states of the base, or None.

    Returns:
        The probes, and why others are missing.
    """
    table, skipped = states.table, {}
    negated = bool((table["polarity"] < 0).any())
    out: list[Fitted] = []
    for polarity in ((1, -1), (1,)) if negated else ((1, -1),):
        found = _probes_of(states, sae, polarity, skipped)
        check_arms([fitted.record for fitted in found])
        out += found
    if not negated:
        skipped["ttpd"] = "there are no negated statements"
        return out, skipped
    for arm in ("base", "adapter"):
        like = next(one for one in out if (one.kind, one.arm) == ("logistic", arm))
        out.append(fit("ttpd", table, HOOK, arm, layer=like.layers[0]))
    return out, skipped


def _probes_of(
    states: States, sae: SAE | None, polarity: Sequence[int], skipped: dict[str, str]
) -> list[Fitted]:
    """Fit all probes but TTPD on statements of some polarity; add the missing ones to `skipped`."""
    table, model = states.table, states.loaded.model

    def one(kind: str, hook: str, arm: str, layer: int | None = None) -> Fitted:
        """Fit a probe."""
        return fit(kind, table, hook, arm, polarity=polarity, model=model, layer=layer)

    out = [one("logistic", HOOK, arm) for arm in ARMS]
    layer = out[1].layers[0]
    out += [one(kind, HOOK, "adapter", layer) for kind in ("mass_mean", "lda", "mlp")]
    out += [one(kind, HOOK, "adapter") for kind in ("layer_conv", "layer_diff")]
    out += [one(kind, HOOK, "both", layer) for kind in BOTH_SIDES]
    out.append(one("ccs", HOOK, "base", out[0].layers[0]))
    if FEATURES in table.states:
        out.append(one("logistic", FEATURES, "adapter"))
        for kind in ("weighted", "selected"):
            try:
                out.append(one(kind, FEATURES, "adapter"))
            except ConfigError as error:  # an adapter without IA3's factors
                skipped[kind] = str(error)
    if sae is None:
        skipped["sae"] = "no dictionary is given (--sae)"
    else:
        out += [fit_latents(table, sae, arm, polarity) for arm in ("base", "adapter")]
    return out


def name_of(fitted: Fitted, table: StateTable) -> str:
    """Return the name of a probe's row: kind, arm, hook, layers, and what it was fitted on."""
    layers = ",".join(map(str, fitted.layers)) if len(fitted.layers) < 3 else "all layers"
    both = len(fitted.record.sets) == len(table.training().record().sets)
    about = "" if both else ", affirmative only"
    return f"{fitted.kind} ({fitted.arm}, {fitted.hook} {layers}{about})"


def measure_run(states: States, draws: int = 500, sae: SAE | None = None) -> dict[str, Any]:
    """Return all numbers of a run, as JSON can contain them.

    Args:
        states: of the run.
        draws: resamples of the intervals.
        sae: a dictionary of states of the base, or None.

    Returns:
        {"answers": rows of base, adapter and dummy, "probes": rows of the probes, "lies": rows of
        prompted and trained lies, "conformal": coverage of sets, "layers": AUROC by hook, arm and
        layer, "reliability": see `reliability`, "skipped": probes that are missing, and sizes}. A
        row is {set: {measure: interval}}.
    """
    table = states.table
    sets = evaluated_sets(table)
    control = table.where(split="control", lie=0)
    check_controls(control, [table.where(split=("train", "dev", "test", "ood"))])
    fitted, skipped = probes_of(states, sae)
    rows: dict[str, dict[str, Any]] = {"answers": {}, "probes": {}}
    hooks = [hook for hook in (HOOK, FEATURES) if hook in table.states]
    train = table.training(lie=0)
    dummy = Dummy.fit(train.p, train.labels)
    plain = {
        "base answer": lambda rows: rows.p[0],
        "adapter answer": lambda rows: rows.p[1],
        f"dummy, decoded (y = {dummy.share:.2f})": lambda rows: dummy.predict_proba(rows.p)[:, 1],
    }
    for name, proba in plain.items():
        rows["answers"][name] = _row(proba, sets, control, draws)
    for one in fitted:
        rows["probes"][name_of(one, table)] = _row(one.proba, sets, control, draws)
    return {
        **rows,
        "dummy": dummy.share,
        "lies": lies(table, fitted[:2], draws),
        "conformal": coverage(table, fitted[1], sets),
        "layers": {
            hook: {arm: layer_aurocs(table, hook, arm) for arm in ARMS[:2]} for hook in hooks
        },
        "reliability": {one.arm: reliability(one, sets) for one in fitted[:2]},
        "skipped": skipped,
        "sizes": {name: len(rows) for name, rows in sets.items()} | {"control": len(control)},
        "adapter": table.adapter,
        "seed": table.seed,
    }


def _row(
    proba: Any, sets: dict[str, StateTable], control: StateTable, draws: int
) -> dict[str, dict[str, Any]]:
    """Return the measures of one way to score statements on each set."""
    false = control.where(label=0)
    threshold = control_threshold(proba(false)) if len(false) else float("nan")
    out = {}
    for name, rows in sets.items():
        found = intervals(
            proba(rows), rows.labels, group_ids(rows), threshold=threshold, draws=draws
        )
        out[name] = {measure: finite(found[measure].as_dict()) for measure in MEASURES}
    return out


def coverage(
    table: StateTable, fitted: Fitted, sets: dict[str, StateTable]
) -> dict[str, dict[str, float]]:
    """Return the coverage of each class and the mean size of conformal sets, calibrated on dev."""
    dev = table.where(split="dev", lie=0)
    p = fitted.proba(dev)
    thresholds = set_thresholds(np.stack([1 - p, p], 1), dev.labels, ALPHA)
    out = {}
    for name, rows in sets.items():
        p = fitted.proba(rows)
        found = prediction_sets(np.stack([1 - p, p], 1), thresholds)
        out[name] = {f"coverage_{c}": float(found[rows.labels == c, c].mean()) for c in (0, 1)} | {
            "size": float(found.sum(1).mean())
        }
    return out


def reliability(
    fitted: Fitted, sets: dict[str, StateTable], bins: int = 10
) -> list[list[float | None]]:
    """Return (mean probability, share of label 1, count) of test rows in bins of probability."""
    rows = [table for name, table in sets.items() if name.startswith("test")]
    p = np.concatenate([fitted.proba(table) for table in rows])
    labels = np.concatenate([table.labels for table in rows])
    place = np.minimum((p * bins).astype(int), bins - 1)
    return [
        [float(p[place == i].mean()), float(labels[place == i].mean()), int((place == i).sum())]
        for i in range(bins)
        if (place == i).any()
    ]


def lies(table: StateTable, fitted: Sequence[Fitted], draws: int) -> dict[str, Any]:
    """Return how well probes of truth detect prompted lies and trained lies.

    A lie is a wrong answer to a question that the base answers rightly when asked for the truth:
    the belief is verified by the base's rows. The score of an answer is the probability that it
    is wrong, according to the probe. Prompted lies are the base's answers to prompts that ask for a
    lie; trained lies are the adapter's wrong answers to the same prompts. Honest rows are the
    base's right answers to prompts that ask for the truth. The known questions are found with a
    threshold of the base's answers that is fitted on training rows.

    Args:
        table: all rows.
        fitted: probes of the arms base and adapter.
        draws: resamples.

    Returns:
        {kind: {arm: measures, with the number of lies and of control rows}}.
    """
    train = table.training(lie=0)
    threshold = known_threshold(train.p[0], train.labels)
    out: dict[str, Any] = {}
    for kind, side in (("prompted", 0), ("trained", 1)):
        out[kind] = {}
        for one in fitted:
            honest, scores = _honest(table.where(split="test"), one, threshold)
            controls, control_scores = _honest(table.where(split="control"), one, threshold)
            told = table.where(split="test", lie=1)
            known = _known(table.where(split="test", lie=0), threshold)
            wrong = (told.p[side] > threshold) != (told.labels > 0)
            lying = told.select(wrong & np.isin(told["key"], known))
            found = one.proba(lying) if len(lying) else np.zeros(0)
            given = lying.p[side] > threshold
            both = np.concatenate([scores, np.where(given, 1 - found, found)])
            labels = np.repeat([0, 1], [len(scores), len(found)])
            groups = np.unique(
                np.concatenate([honest["group"], lying["group"]]), return_inverse=True
            )[1]
            cut = control_threshold(control_scores) if len(control_scores) else float("nan")
            measured = intervals(both, labels, groups, threshold=cut, draws=draws)
            out[kind][one.arm] = {
                "lies": int(len(lying)),
                "controls": len(controls),
                **{name: finite(measured[name].as_dict()) for name in MEASURES},
            }
    return out


def _known(truthful: StateTable, threshold: float) -> np.ndarray:
    """Return the keys of examples that the base answers rightly when asked for the truth."""
    return truthful["key"][_right(truthful.p[0], truthful.labels, threshold)]


def _right(p: Float[np.ndarray, "N"], labels: np.ndarray, cut: float) -> Bool[np.ndarray, "N"]:
    return (p > cut) == (labels > 0)


def _honest(
    table: StateTable, fitted: Fitted, threshold: float
) -> tuple[StateTable, Float[np.ndarray, "N"]]:
    """Return the base's right answers when asked for the truth, and the scores of lying."""
    rows = table.where(lie=0)
    rows = rows.select(_right(rows.p[0], rows.labels, threshold))
    p = fitted.proba(rows) if len(rows) else np.zeros(0)
    return rows, np.where(rows.p[0] > threshold, 1 - p, p)
