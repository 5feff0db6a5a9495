"""The page of one or several runs: tables and figures of the numbers of `report`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxae.measures.stats import Interval
from flaxae.models.probes import figures


def page(runs: dict[str, dict[str, Any]], note: str = "", verdicts: str = "") -> str:
    """Return the report as Markdown.

    Args:
        runs: name -> numbers of `measure_run`.
        note: shown at the top.
        verdicts: a table before those of the runs.
    """
    parts = ["# Adapters as probes", "", *([f"**{note}**", ""] if note else [])]
    parts += [verdicts] if verdicts else []
    for number, (name, numbers) in enumerate(runs.items()):
        parts += [f"## {name} (adapter {numbers['adapter']}, seed {numbers['seed']})", ""]
        parts += [f"![figures](run_{number:02d}.png)", ""]
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
    for number, (name, numbers) in enumerate(runs.items()):
        figures.draw(numbers, outdir / f"run_{number:02d}.png", name)
    path = outdir / "report.md"
    path.write_text(page(runs, note, verdicts))
    return path
