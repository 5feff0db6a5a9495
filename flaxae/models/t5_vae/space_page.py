"""The report of `flaxae.models.t5_vae.space`: its table, its goals and its figure."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.measures.claims import cell
from flaxae.sweep.record import Row
from flaxae.text_autoencoder.figures import subplots

REPORT, FIGURE = "report.md", "tradeoff.png"
# Heading -> name of the number (see `text_autoencoder.evaluation.headline`), of the dev split.
COLUMNS = {
    "exact match": "exact_match",
    "exact, shuffled": "exact_match_shuffled",
    "samples valid": "samples_valid",
    "samples' perplexity": "samples_perplexity",
    "of a mixture": "gmm_perplexity",
    "repetition": "samples_repetition",
    "distinct-2": "samples_distinct2",
    "path middle valid, over real": "path_middle_valid",
    "best path": "best_path_middle_valid",
    "kind, 10 % of labels": "kind_probe_10",
    "pulled: valid": "pull_valid",
    "pulled: perplexity": "pull_perplexity",
    "neighbours' recall": "neighbours_recall_10",
    "bits": "bits",
}
REAL = ("real_perplexity", "real_valid", "real_repetition")
Numbers = dict[str, float]
GOALS: dict[str, Callable[[Numbers], bool]] = {
    "exact match >= .80": lambda x: x["exact_match"] >= 0.8,
    "shuffled <= .40": lambda x: x["exact_match_shuffled"] <= 0.4,
    "samples' perplexity <= 10 x real lines'": lambda x: (
        x["samples_perplexity"] <= 10 * x["real_perplexity"]
    ),
    "samples valid >= .35, repetition <= real lines'": lambda x: (
        x["samples_valid"] >= 0.35 and x["samples_repetition"] <= x["real_repetition"]
    ),
    "path middle >= .85 of real lines": lambda x: x["path_middle_valid"] >= 0.85,
    "kind >= .65": lambda x: x["kind_probe_10"] >= 0.65,
}


def write(rows: list[Row], outdir: Path, steps: dict[str, Any]) -> None:
    """Write report.md and its figure.

    Args:
        rows: rows of the record.
        outdir: the folder.
        steps: minutes and GFLOP/s of the measured steps, and each setting's steps.
    """
    real = {name: _mean([row["numbers"].get(name) for row in rows]) for name in REAL}
    tradeoff(rows, real, outdir / FIGURE)
    text = f"""# Latent spaces at equal time

Steps of each setting fill {steps["minutes"]:g} minutes of training, by the median time of a step
measured alone on a machine of {steps["gflops"]} GFLOP/s. Numbers are of the dev split: means over
seeds with Student's 95 % interval. Paths are compared with real dev lines, samples with real lines
of the split test_line (without one, of a half of dev). The latter have a trigram perplexity of
{real["real_perplexity"]:.3g}, {real["real_valid"]:.3f} of them are valid Python, and
{real["real_repetition"]:.3f} of their bigrams are repeated. Samples are of N(0, I), and in one
column of a mixture of Gaussians fitted to codes. The middle is that of slerp paths, and in the next
column that of the path which the evaluation finds best. Bits are those at the largest noise.

{table(rows)}
{goals_met(rows)}
![Exact match against the perplexity of samples]({FIGURE})
"""
    (outdir / REPORT).write_text(text)


def table(rows: list[Row]) -> str:
    """Return a Markdown table with one row per setting, in order of first appearance."""
    lines = [
        "| setting | steps | seeds | " + " | ".join(COLUMNS) + " |",
        "|---" * (3 + len(COLUMNS)) + "|",
    ]
    for name, same in by_setting(rows).items():
        steps = "/".join(f"{x:,}" for x in dict.fromkeys(row["steps"] for row in same))
        cells = [cell([row["numbers"][column] for row in same]) for column in COLUMNS.values()]
        lines.append(f"| {name} | {steps} | {len(same)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def goals_met(rows: list[Row]) -> str:
    """Return a Markdown table of the goals that each setting's means reach."""
    head = ["setting", *GOALS, "met"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, same in by_setting(rows).items():
        numbers = {k: _mean([row["numbers"].get(k) for row in same]) for k in same[0]["numbers"]}
        met = [goal(numbers) for goal in GOALS.values()]
        cells = ["yes" if x else "no" for x in met]
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(met)} of {len(met)} |")
    return "\n".join(lines) + "\n"


def tradeoff(rows: list[Row], real: Numbers, path: Path) -> Path:
    """Plot the perplexity of samples against exact match: each run, and each setting's mean.

    Args:
        rows: rows of the record.
        real: perplexity of real lines, as "real_perplexity".
        path: PNG file to write.
    """
    figure, axes = subplots(1, 1, (8, 5.5))
    axis = axes[0, 0]
    for name, same in by_setting(rows).items():
        points = [
            (row["numbers"]["exact_match"], row["numbers"]["samples_perplexity"]) for row in same
        ]
        x, y = np.asarray([p for p in points if None not in p], float).reshape(-1, 2).T
        if not len(x):
            continue
        dots = axis.plot(x, y, "o", ms=3, alpha=0.5)[0]
        centre = (float(x.mean()), float(np.exp(np.log(y).mean())))
        axis.plot(*centre, "s", ms=6, color=dots.get_color())
        axis.annotate(name, centre, xytext=(5, 3), textcoords="offset points", fontsize=8)
    axis.set_yscale("log")
    axis.axvline(0.8, color="gray", linewidth=1, linestyle=":")
    for factor, style in ((10, ":"), (1, "--")):
        if math.isfinite(real["real_perplexity"]):
            axis.axhline(factor * real["real_perplexity"], color="gray", lw=1, linestyle=style)
    axis.set_xlabel("exact match of held-out lines (dotted: the goals)")
    axis.set_ylabel("trigram perplexity of N(0, I) samples (dashed: real lines)")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


def by_setting(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of each setting, in order of first appearance."""
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(row["variant"], []).append(row)
    return out


def _mean(values: list[float | None]) -> float:
    numbers = [x for x in values if x is not None]
    return float(np.mean(numbers)) if numbers else math.nan
