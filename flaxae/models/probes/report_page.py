"""The page of one or several runs: tables and figures of the numbers of `report`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxae.measures.claims import number
from flaxae.measures.stats import Interval
from flaxae.models.probes import figures

TITLES = {
    "auroc": "AUROC",
    "bal_acc": "balanced accuracy",
    "recall": "recall at 1 % false positives",
    "acc": "accuracy",
}


def page(runs: dict[str, dict[str, Any]], note: str = "", verdicts: str = "") -> str:
    """Return the report as Markdown.

    Args:
        runs: name -> numbers of `measure_run`.
        note: shown at the top.
        verdicts: a table before those of the runs.
    """
    parts = ["# Adapters as probes", "", *([f"**{note}**", ""] if note else [])]
    parts += [verdicts] if verdicts else []
    for position, (name, numbers) in enumerate(runs.items()):
        parts += [f"## {name} (adapter {numbers['adapter']}, seed {numbers['seed']})", ""]
        parts += [f"![figures](run_{position:02d}.png)", ""]
        parts += [f"**Warning: {warning}.**\n" for warning in numbers["warnings"]]
        for measure, title in TITLES.items():
            parts += [*_measure(numbers, measure, title), ""]
        parts += [f"{numbers['controls']} false control rows set the threshold.", ""]
        parts += [*_lies(numbers["lies"]), "", *_conformal(numbers), ""]
        parts += [f"Not fitted: {k}: {v}.\n" for k, v in numbers["skipped"].items()]
    return "\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_line(head), "|---" * len(head) + "|", *map(_line, rows)]


def _measure(numbers: dict[str, Any], measure: str, title: str) -> list[str]:
    """Return the table of one measure, by row and set."""
    sets = list(numbers["sizes"])
    rows = [
        [row["name"], *(_cell(row["sets"][s][measure]) for s in sets)] for row in numbers["rows"]
    ]
    return _table([title, *(f"{s} ({numbers['sizes'][s]})" for s in sets)], rows)


def _lies(found: dict[str, Any]) -> list[str]:
    head = ["lies", "probe", "lies", "honest", "controls"]
    rows = [
        [kind, way, *(str(x[n]) for n in head[2:])]
        + [_cell(x[m]) for m in ("bal_acc", "recall", "auroc")]
        for kind, ways in found.items()
        for way, x in ways.items()
    ]
    return _table([*head, TITLES["bal_acc"], TITLES["recall"], TITLES["auroc"]], rows)


def _conformal(numbers: dict[str, Any]) -> list[str]:
    """Return the coverage of conformal sets and of intervals of the gap."""
    gaps = numbers["gaps"]
    radius = _number(gaps.get("radius"))
    head = ["conformal, 90 %", "coverage of label 0", "coverage of label 1", "mean size of the set"]
    rows = [
        [name, *(_number(x[n]) for n in ("coverage_0", "coverage_1", "size"))]
        + [_number(gaps.get(name))]
        for name, x in numbers["conformal"].items()
    ]
    return _table([*head, f"coverage of predicted gap +- {radius}"], rows)


def _number(value: float | None) -> str:
    return number(float("nan") if value is None else value)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "-"
    values = {k: float("nan") if v is None else v for k, v in found.items()}
    return str(Interval(**values))


def write(
    runs: dict[str, dict[str, Any]], outdir: Path, note: str = "", verdicts: str = ""
) -> Path:
    """Write report.md, report.json and a figure of each run.

    Args:
        runs: name -> numbers of `measure_run`.
        outdir: created if it does not exist.
        note: shown at the top.
        verdicts: a table before those of the runs.

    Returns:
        The path of report.md.
    """
    outdir.mkdir(parents=True, exist_ok=True)
    (outdir / "report.json").write_text(json.dumps(runs, indent=1) + "\n")
    for position, (name, numbers) in enumerate(runs.items()):
        figures.draw(numbers, outdir / f"run_{position:02d}.png", name)
    path = outdir / "report.md"
    path.write_text(page(runs, note, verdicts))
    return path
