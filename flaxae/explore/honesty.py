"""The quality of a model, read from its run's files, for the strip at the top of the page."""

import json
from pathlib import Path
from typing import Any, NamedTuple

NOT_EVALUATED = "not evaluated"
SPLITS = {"test_file": "held-out files", "test_line": "held-out lines", "dev": "dev lines"}


class Fact(NamedTuple):
    """One number of the strip, with an explanation."""

    name: str
    value: str
    meaning: str


def read(directory: Path | None) -> dict[str, Any]:
    """Read the files of a run.

    Args:
        directory: workdir or directory of a saved model; None: there is none.

    Returns:
        {"report": evaluation, "config": config, "log": rows of the training log}, each empty if
        its file is missing.
    """
    out: dict[str, Any] = {"report": {}, "config": {}, "log": []}
    if directory is None:
        return out
    for path in (directory / "report.json", directory / "report" / "report.json"):
        if path.is_file():
            out["report"] = _json(path)
            break
    out["config"] = _json(directory / "config.json")
    try:
        lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        out["log"] = [json.loads(line) for line in lines if '"train"' in line]
    except (OSError, ValueError):
        pass
    return out


def facts(about: dict[str, Any], step: int) -> list[Fact]:
    """Return the contents of the strip.

    Args:
        about: see `read`.
        step: train step of the model's parameters.
    """
    report = about["report"] if isinstance(about["report"], dict) else {}
    data = _get(about["config"], "data") or {}
    trained = str(data.get("path") or data.get("name") or "unknown")
    out = [
        Fact(
            "exact match",
            _exact_match(_get(report, "splits") or {}),
            "share of texts that are decoded exactly from their codes",
        ),
        Fact(
            "shuffled lines",
            _shuffled(_get(report, "text_space", "shuffled")),
            "share of lines with shuffled tokens that are decoded exactly: a code that copies them "
            "as well as real lines holds places of tokens, not texts",
        ),
        Fact(
            "valid samples",
            _validity(_get(report, "samples")),
            "share of texts decoded from N(0, I) that are valid Python",
        ),
        Fact(
            "MMD²",
            _mmd(_get(report, "latent")),
            "distance of the codes from N(0, I), divided by the distance that as many draws of "
            "N(0, I) exceed in 1 of 20 cases: a value far above 1 means that random codes are "
            "unlike the codes of texts",
        ),
        Fact("trained on", trained, "the run's training data"),
        Fact("steps", f"{step}{_examples(data, step)}", "train steps of these parameters"),
        Fact("time", _time(about["log"]), "total time of the train steps, from the run's log"),
    ]
    evaluated = report.get("step")
    if evaluated is not None and evaluated != step:
        note = "the evaluation is of other parameters than those explored here"
        out.append(Fact("evaluated at", f"step {evaluated}", note))
    return out


def _exact_match(splits: dict[str, Any]) -> str:
    split = next((name for name in SPLITS if name in splits), "")
    exact = _get(splits, split, "exact_match")
    return f"{exact:.1%} of {SPLITS[split]}" if _is_number(exact) else NOT_EVALUATED


def best_path(about: dict[str, Any]) -> str:
    """Return the path between texts that is best by the run's evaluation; "": not evaluated.

    Args:
        about: see `read`.
    """
    found = _get(about["report"], "interpolation", "best")
    return found if isinstance(found, str) else ""


def _shuffled(row: Any) -> str:
    exact = _get(row, "exact_match_shuffled")
    return f"{exact:.1%} exact" if _is_number(exact) else NOT_EVALUATED


def _validity(samples: Any) -> str:
    validity, real = _get(samples, "validity"), _get(samples, "others", "real_lines", "validity")
    if not _is_number(validity):
        return NOT_EVALUATED
    return f"{validity:.1%}" + (f" (real texts {real:.0%})" if _is_number(real) else "")


def _mmd(latent: Any) -> str:
    mmd, null = _get(latent, "mmd"), _get(latent, "null_p95")
    known = _is_number(mmd) and _is_number(null) and null
    return f"{mmd / null:.3g} × null" if known else NOT_EVALUATED


def _examples(data: dict[str, Any], step: int) -> str:
    size = data.get("batch_size")
    return f" ({step * size:,} texts seen)" if isinstance(size, int) else ""


def _time(log: list[dict[str, Any]]) -> str:
    """Sum the time of all logged steps from the rate of each row."""
    seconds, last = 0.0, 0
    for row in log:
        rate: Any = row.get("time/steps_per_second")
        step: Any = row.get("step")
        if _is_number(rate) and isinstance(step, int) and rate > 0 and step > last:
            seconds += (step - last) / rate
            last = step
    if not seconds:
        return "unknown"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _get(data: Any, *names: str) -> Any:
    """Look up nested keys; None if one of them is missing."""
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and x == x


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
