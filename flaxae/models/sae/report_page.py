"""The report's page, made from rows of its record."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flaxae.measures.claims import cell
from flaxae.models.sae import figures, report_cost
from flaxae.sweep.record import Row

PILOT, PARETO = "/pilot", "pareto"  # a pilot's variant is "standard/pilot"
NOT_MEASURED = "not measured"
Value = Callable[[dict[str, Any]], float | None]


def _entry(name: str, factor: float = 1.0) -> Value:
    def value(numbers: dict[str, Any]) -> float | None:
        found = numbers.get(name)
        return None if found is None else factor * found

    return value


MEASURES: dict[str, Value] = {
    "L0": _entry("l0"),
    "FVU": _entry("fvu"),
    "never active, %": _entry("never_active", 100),
    "CE recovered": _entry("ce_recovered"),
    "cities, k=16": _entry("cities_k16"),
    "sae-probes, k=16": _entry("sets_k16"),
}
CODES: dict[str, Value] = {"bits per token": _entry("bits"), "FVU": _entry("fvu")}


def final(rows: Sequence[Row], variant: str) -> list[Row]:
    """Return the rows of a variant's runs by seed, without those that only led to its settings.

    The runs of the first seed are repeated until L0 is in its range; the last one counts, and the
    other seeds with the same settings.
    """
    own = [row for row in rows if row["variant"] == variant]
    first = [row for row in own if row["seed"] == min(r["seed"] for r in own)]
    if not first:
        return []
    kept = [row for row in own if row["overrides"] == first[-1]["overrides"]]
    return sorted(kept, key=lambda row: row["seed"])


def table(rows: Sequence[Row], variants: Sequence[str], measures: dict[str, Value]) -> str:
    """Return a Markdown table with one row per variant; those without rows are not measured."""
    lines = [
        "| architecture | seeds | " + " | ".join(measures) + " |",
        "|---" * (2 + len(measures)) + "|",
    ]
    for variant in variants:
        found = final(rows, variant)
        cells = [cell([value(row["numbers"]) for row in found]) for value in measures.values()]
        if not found:
            cells = [NOT_MEASURED] + [""] * (len(measures) - 1)
        lines.append(f"| {variant} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def trials(rows: Sequence[Row]) -> str:
    """Return a table of the pilots, and of the runs of the first seed that led to settings."""
    lines = ["| run | tokens | setting | L0 | FVU |", "|---|---|---|---|---|"]
    for row in rows:
        setting = ", ".join(f"{name} = {x:g}" for name, x in row["overrides"].items())
        numbers = row["numbers"]
        if setting and row["seed"] == 0 and row["variant"] != PARETO:
            l0 = numbers.get("chosen_l0", numbers["l0"])
            found = "diverged | |" if l0 is None else f"{l0:.1f} | {numbers['fvu']:.3f} |"
            lines.append(f"| {row['variant']} | {row['tokens']:,} | {setting} | {found}")
    return "\n".join(lines) + "\n"


def references(rows: Sequence[Row]) -> str:
    """Return what the measures of dictionaries of the residual stream are compared with."""
    found = next((r["numbers"] for r in rows if "cities_states" in r["numbers"]), None)
    if found is None:
        return ""
    others = f", {found['sets_states']:.3f} on sae-probes" if "sets_states" in found else ""
    return (
        f"Regressions on the states themselves: AUROC {found['cities_states']:.3f} on cities"
        f"{others}. Cross entropy of the model: {found['ce_clean']:.3f} nats per token; with zeros "
        f"in place of the states, {found['ce_ablated']:.3f}.\n"
    )


def page(
    rows: Sequence[Row],
    title: str,
    sparse: Sequence[str],
    others: Sequence[str],
    codes: Sequence[str],
    goal: tuple[float, float],
) -> str:
    """Return the report.

    Args:
        rows: the rows of its level.
        title: first line, which says what was run.
        sparse: the sparse architectures.
        others: transcoders and layered autoencoders.
        codes: runs of vq and fsq.
        goal: the wanted L0, and how far from it a run may be.
    """
    target, tolerance = goal
    misses = []
    for name in sparse:
        found = [row["numbers"]["l0"] for row in final(rows, name)]
        if found and abs(found[0] - target) > tolerance:
            misses.append(f"{name} ({found[0]:.1f})")
    data = sorted({str(row["data"]) for row in rows})
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Texts: {'; '.join(data) or NOT_MEASURED}. Means with Student's 95 % intervals over "
            "seeds. Settings were chosen by the L0 on other held-out texts (the split dev) than "
            "those that are reported here (test_line). FVU is the unexplained share of the "
            "variance of all their states; latents that are never active are active on none of "
            "them. AUROCs are those of probes of the 16 latents whose class means differ most.",
            "",
            f"## Sparse dictionaries of the residual stream, L0 = {target:g} ± {tolerance:g}",
            "",
            table(rows, sparse, MEASURES),
            *([f"Outside of the range of L0: {', '.join(misses)}.", ""] if misses else []),
            references([row for row in rows if row["variant"] in sparse]),
            "## Transcoders of the MLP, and layered autoencoders",
            "",
            table(rows, others, MEASURES),
            "## Codes",
            "",
            table(rows, codes, CODES),
            "## Pilots and settings",
            "",
            trials(rows),
            "## 8 M tokens on accelerators",
            "",
            report_cost.table(),
        ]
    )


def draw(rows: Sequence[Row], outdir: Path) -> list[Path]:
    """Draw L0 against FVU of the lanes of the sweep; return the files, none without rows."""
    points = [
        {figures.L0: row["numbers"]["l0"], figures.FVU: row["numbers"]["fvu"]}
        for row in rows
        if row["variant"] == PARETO and row["numbers"]["l0"] is not None
    ]
    return figures.pareto(points, outdir / "pareto") if points else []
