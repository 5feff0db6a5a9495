"""Tables of one or several runs: answers, probes, lies; and verdicts on the hypotheses.

Every number is of rows that were not fitted on. Thresholds of 1 % false positives are those of
control rows, which are in no other split.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from flaxae.measures.stats import Interval, finite
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
    out = []
    negated = bool((table["polarity"] < 0).any())
    for arm in ARMS:
        out.append(fit("logistic", table, HOOK, arm))
    layer = out[1].layers[0]
    for kind in ("mass_mean", "lda", "mlp"):
        out.append(fit(kind, table, HOOK, "adapter", layer=layer))
    for kind in ("layer_conv", "layer_diff"):
        out.append(fit(kind, table, HOOK, "adapter"))
    for kind in BOTH_SIDES:
        out.append(fit(kind, table, HOOK, "both", layer=layer))
    out.append(fit("ccs", table, HOOK, "base", layer=layer))
    if negated:
        out.append(fit("ttpd", table, HOOK, "adapter", layer=layer))
        out.append(fit("ttpd", table, HOOK, "base", layer=out[0].layers[0]))
    else:
        skipped["ttpd"] = "there are no negated statements"
    if FEATURES in table.states:
        out.append(fit("logistic", table, FEATURES, "adapter"))
        for kind in ("weighted", "selected"):
            try:
                out.append(fit(kind, table, FEATURES, "adapter", model=states.loaded.model))
            except ValueError as error:  # an adapter without IA3's factors
                skipped[kind] = str(error)
    if sae is None:
        skipped["sae"] = "no dictionary is given (--sae)"
    else:
        out += [fit_latents(table, sae, arm) for arm in ("base", "adapter")]
    check_arms([fitted.record for fitted in out])
    if negated:
        for arm in ARMS:
            out.append(fit("logistic", table, HOOK, arm, polarity=(1,)))
    return out, skipped


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
        prompted and trained lies, "layers": AUROC by layer, "skipped": probes that are missing}.
        A row is {set: {measure: interval}}.
    """
    table = states.table
    sets = evaluated_sets(table)
    control = table.where(split="control", lie=0)
    check_controls(control, [table.where(split=("train", "dev", "test", "ood"))])
    fitted, skipped = probes_of(states, sae)
    rows: dict[str, dict[str, Any]] = {"answers": {}, "probes": {}}
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
        "layers": {arm: layer_aurocs(table, HOOK, arm) for arm in ("base", "adapter")},
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


def page(runs: dict[str, dict[str, Any]], note: str = "") -> str:
    """Return the report as Markdown.

    Args:
        runs: name -> numbers of `measure_run`.
        note: shown at the top.
    """
    parts = ["# Adapters as probes", "", *([f"**{note}**", ""] if note else [])]
    for name, numbers in runs.items():
        parts += [f"## {name} (adapter {numbers['adapter']}, seed {numbers['seed']})", ""]
        sets = list(numbers["sizes"])[:-1]
        parts += [_line(["AUROC", *(f"{s} ({numbers['sizes'][s]})" for s in sets)])]
        parts += ["|---" * (len(sets) + 1) + "|"]
        for row, found in (numbers["answers"] | numbers["probes"]).items():
            parts.append(_line([row, *(_cell(found[s]["auroc"]) for s in sets)]))
        parts += ["", *_lies(numbers["lies"]), ""]
        parts += [f"Not fitted: {k}: {v}." for k, v in numbers["skipped"].items()]
    return "\n".join(parts) + "\n"


def _lies(found: dict[str, Any]) -> list[str]:
    lines = [_line(["lies", "probe", "count", "bal. acc.", "recall at 1 %", "AUROC", "controls"])]
    lines.append("|---" * 7 + "|")
    for kind, arms in found.items():
        for arm, x in arms.items():
            cells = [_cell(x[m]) for m in ("bal_acc", "recall", "auroc")]
            lines.append(_line([kind, arm, str(x["lies"]), *cells, str(x["controls"])]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(found: dict[str, Any]) -> str:
    values = {k: float("nan") if v is None else v for k, v in found.items()}
    return str(Interval(**values))


def write(runs: dict[str, dict[str, Any]], outdir: Path, note: str = "") -> Path:
    """Write report.md and report.json.

    Args:
        runs: name -> numbers of `measure_run`.
        outdir: created if it does not exist.
        note: shown at the top.

    Returns:
        The path of report.md.
    """
    outdir.mkdir(parents=True, exist_ok=True)
    (outdir / "report.json").write_text(json.dumps(runs, indent=1) + "\n")
    path = outdir / "report.md"
    path.write_text(page(runs, note))
    return path
