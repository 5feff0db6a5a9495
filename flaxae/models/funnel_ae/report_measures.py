"""Numbers of one trained run of the report, for its row of the record."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.models.funnel_ae.skips import Skip
from flaxae.models.funnel_ae.states import code_moments, measure_states
from flaxae.training.load import load

DIGITS = 6  # of stored numbers
METRICS = ("exact_match", "token_accuracy", "first_token_accuracy", "perplexity")


def measure_run(workdir: Path) -> dict[str, Any]:
    """Return the numbers of a trained run.

    Args:
        workdir: the run's folder.

    Returns:
        ce and the METRICS of the last evaluation, without skips; from_uniform: |ce - ln V|.
        curve, train: cross entropy by step of the evaluations and of the training.
        skips: their weights by step; open: cross entropies before they close. Both are only in
            runs with a schedule.
        differences, attention, layers: see `states.measure_states`; code: the same of the codes.
        moments: errors of the running moments, of random codes only (see `_moments`).
        unexplained: 1 - R² of the predicted details, outermost first, of Haar upsamplers only.
    """
    loaded = load(workdir)
    options: Any = loaded.config.task
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    dev, train = ([row for row in log if row["split"] == name] for name in ("dev", "train"))
    last = dev[-1]
    out: dict[str, Any] = {"ce": last["recon"], **{name: last[name] for name in METRICS}}
    out["from_uniform"] = abs(last["recon"] - math.log(options.num_ids))
    out["curve"] = _by_step(dev, "recon")
    out["train"] = _by_step(train, "recon")
    if options.skip.kind in (Skip.LINEAR, Skip.SIGMOID):
        levels = range(len(options.funnel.block_sizes) - 1)
        out["skips"] = [_by_step(train, f"skip_{k}")["values"] for k in levels]
        out["open"] = _open(out, options.skip.start)
    unexplained = [last[name] for name in sorted(last) if name.startswith("detail_unexplained")]
    if unexplained:
        out["unexplained"] = unexplained
    source = loaded.task.data("dev")
    ids = np.concatenate([source.batch(step)["ids"] for step in range(source.num_batches)])
    found = measure_states(loaded.model, ids)
    out["differences"] = [level["ratio"] for level in found["differences"]]
    out["attention"] = found["attention"]
    out["layers"] = found["layers"]
    inner = max(name for name in found["layers"] if name.startswith("encoder"))
    out["code"] = found["layers"][inner]
    if loaded.model.moments is not None:
        out["moments"] = _moments(loaded.model, ids)
    return _rounded(out)


def _by_step(rows: list[dict[str, Any]], name: str) -> dict[str, list[float]]:
    known = [row for row in rows if name in row]
    return {"steps": [row["step"] for row in known], "values": [row[name] for row in known]}


def _open(found: dict[str, Any], start: float) -> dict[str, float]:
    """Return the cross entropies of the last evaluation before the outermost skip closes.

    "ce" is that of the evaluation, without skips; "train" that of training, with them. An
    evaluation counts if the skip's weight is at least half of that at the start.
    """
    curve, train, weights = found["curve"], found["train"], found["skips"][0]
    opened = {s: i for i, s in enumerate(train["steps"]) if weights[i] >= start / 2}
    steps = [s for s in curve["steps"] if s in opened]
    if not steps:
        return {}
    at = opened[steps[-1]]
    ce = curve["values"][curve["steps"].index(steps[-1])]
    return {"step": steps[-1], "ce": ce, "train": train["values"][at]}


def _moments(model: Any, ids: np.ndarray) -> dict[str, float]:
    """Return the errors of the running moments, relative to the real codes' standard deviation."""
    mean, std = code_moments(model, ids)
    scale = np.sqrt(np.square(std).mean())
    errors = {"mean": model.moments.mean - mean, "std": model.moments.std - std}
    return {k: float(np.sqrt(np.square(x).mean()) / scale) for k, x in errors.items()}


def _rounded(tree: Any) -> Any:
    """Return a tree of lists and dicts with its numbers rounded to DIGITS digits."""
    if isinstance(tree, dict):
        return {name: _rounded(x) for name, x in tree.items()}
    if isinstance(tree, list):
        return [_rounded(x) for x in tree]
    if not math.isfinite(tree):
        return None
    return tree if isinstance(tree, int) else float(f"{tree:.{DIGITS}g}")
