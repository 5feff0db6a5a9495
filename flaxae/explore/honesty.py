"""What is known of a model, for the strip that is always in view."""

import json
from pathlib import Path
from typing import Any, NamedTuple

NONE = "not evaluated"


class Fact(NamedTuple):
    """One number of the strip."""

    name: str
    value: str
    meaning: str


def read(directory: Path | None) -> dict[str, Any]:
    """What a directory's files say: {"report", "config", "log"}, each empty where there is none."""
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
    """The strip's contents.

    Args:
        about: see `read`.
        step: of the model.
    """
    report = about["report"] if isinstance(about["report"], dict) else {}
    splits = _get(report, "splits") or {}
    split = next((s for s in ("test_file", "test_line", "dev") if s in splits), "")
    exact = _get(splits, split, "exact_match")
    validity = _get(report, "samples", "validity")
    real = _get(report, "samples", "others", "real_lines", "validity")
    mmd, null = _get(report, "latent", "mmd"), _get(report, "latent", "null_p95")
    where = {"test_file": "held-out files", "test_line": "held-out lines", "dev": "dev lines"}
    beside = f" (real texts {real:.0%})" if _number(real) else ""
    against = f"{mmd / null:.3g} × null" if _number(mmd) and _number(null) and null else NONE
    data = _get(about["config"], "data") or {}
    trained = str(data.get("path") or data.get("name") or "unknown")
    out = [
        Fact(
            "exact match",
            f"{exact:.1%} of {where[split]}" if _number(exact) else NONE,
            "share of texts that come back exactly when encoded and decoded freely",
        ),
        Fact(
            "valid samples",
            f"{validity:.1%}{beside}" if _number(validity) else NONE,
            "share of texts decoded from N(0, I) that parse as Python",
        ),
        Fact(
            "MMD²",
            against,
            "distance of the codes from N(0, I) over what that many draws of N(0, I) reach in one "
            "of 20 cases: far above 1 means that random codes are not like those of texts",
        ),
        Fact("trained on", trained, "the data of the run"),
        Fact("steps", f"{step}{_examples(data, step)}", "train steps of these parameters"),
        Fact("time", _time(about["log"]), "of the train steps, from the run's log"),
    ]
    evaluated = report.get("step")
    if evaluated is not None and evaluated != step:
        note = "the evaluation is of another step than these parameters"
        out.append(Fact("evaluated at", f"step {evaluated}", note))
    return out


def _examples(data: dict[str, Any], step: int) -> str:
    size = data.get("batch_size")
    return f" ({step * size:,} texts seen)" if isinstance(size, int) else ""


def _time(log: list[dict[str, Any]]) -> str:
    """Seconds of all logged steps, by the rate of each stretch."""
    seconds, last = 0.0, 0
    for row in log:
        rate: Any = row.get("time/steps_per_second")
        step: Any = row.get("step")
        if _number(rate) and isinstance(step, int) and rate > 0 and step > last:
            seconds += (step - last) / rate
            last = step
    if not seconds:
        return "unknown"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _get(data: Any, *names: str) -> Any:
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data


def _number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and x == x


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
