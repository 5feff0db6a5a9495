"""Experiment on Stimulus layers: `python -m flaxae.models.byte_lm.stimulus_report --workdir W`.

It trains the variants of configs/byte_lm/stimulus.py and writes W/report.md with a table, answers
with intervals, and a histogram of learned half-lives. Rows of finished runs are in the record, from
which the report is made; the same command continues after an interruption.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.command import run_main
from flaxae.machine.compile_cache import keep_programs
from flaxae.measures import stats
from flaxae.measures.claims import cell
from flaxae.models.byte_lm.experiments import (
    DEV,
    QUICK,
    TEST,
    Experiment,
    chosen,
    pairs,
    parse,
    read_space,
    trained,
)

CONFIG = "configs/byte_lm/stimulus.py"
HALF_LIVES = "half-lives"  # in bytes, one per unit, of the top layer
# Question, better variant, other variant: is the difference of their test numbers below 0?
QUESTIONS = (
    ("Are units that learn at k = 1 better than frozen ones?", "k = 1", "frozen"),
    ("The same with decay .7", "k = 1, .7", "frozen, .7"),
    ("Is the exact gradient better than k = 1?", "exact", "k = 1"),
    ("The same with decay .7", "exact, .7", "k = 1, .7"),
    ("Is the exact gradient better than k = 16?", "exact", "k = 16"),
    ("Is it better than frozen units?", "exact", "frozen"),
    ("The same with decay .7", "exact, .7", "frozen, .7"),
    ("Is a learned decay of each unit better than .95?", "decay of each unit, exact", "exact"),
    ("Is it better than .7?", "decay of each unit, exact", "exact, .7"),
)


def half_lives(workdir: Path) -> dict[str, Any]:
    """Return the half-lives in bytes of a trained run's units, if their decays are learned."""
    model, hparams = trained(workdir)
    recurrence = model.recurrences[-1]
    if recurrence.shift is None:
        return {}
    decay = np.asarray(recurrence.decay(hparams["decay"]), np.float64)
    return {HALF_LIVES: [float(f"{x:.4g}") for x in math.log(0.5) / np.log(decay)]}


def table(experiment: Experiment) -> str:
    """Return a Markdown table of the best setting of each variant."""
    lines = [
        "| variant | learning rate | seeds | dev | test | mean response | saturated |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in experiment.variants:
        rows = experiment.rows(name)
        if not rows:
            continue
        columns = [
            cell([row["numbers"].get(key) for row in rows])
            for key in (DEV, TEST, "dev/response", "dev/saturated")
        ]
        rate = rows[0]["overrides"]["optim.lr"]
        lines.append(f"| {name} | {rate:g} | {len(rows)} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def tuning(experiment: Experiment) -> str:
    """Return a Markdown table of the dev numbers of all learning rates."""
    measured = {name: experiment.measured(name) for name in experiment.variants}
    rates = sorted({one["optim.lr"] for found in measured.values() for one, _ in found})
    lines = [
        "| variant | " + " | ".join(f"{rate:g}" for rate in rates) + " |",
        "|---" * (len(rates) + 1) + "|",
    ]
    for name, settings in measured.items():
        found = {one["optim.lr"]: row["numbers"][DEV] for one, row in settings}
        cells = [f"{found[rate]:.3f}" if rate in found else "" for rate in rates]
        if found:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def answers(experiment: Experiment) -> str:
    """Return a Markdown table of paired differences over seeds."""
    lines = [
        "| question | test, difference in bits per byte [95 %] | answer |",
        "|---|---|---|",
    ]
    for question, better, other in QUESTIONS:
        if not {better, other} <= set(experiment.variants):
            continue
        both = pairs(experiment.rows(better), experiment.rows(other))
        if not both:
            continue
        differences = [a["numbers"][TEST] - b["numbers"][TEST] for a, b in both]
        found = stats.t_interval(differences)
        answer = "unclear: one seed"
        if len(differences) > 1:
            answer = "yes" if found.high < 0 else "no" if found.low > 0 else "unclear"
        interval = f" [{found.low:+.3f}, {found.high:+.3f}]" if len(differences) > 1 else ""
        text = f"{found.value:+.3f}{interval}"
        lines.append(f"| {question} ({better} − {other}) | {text} | {answer} |")
    return "\n".join(lines) + "\n"


def draw_half_lives(experiment: Experiment, path: Path) -> Path | None:
    """Draw a histogram of the half-lives of each variant with learned decays, if there is one."""
    from flaxae.text_autoencoder.figures import subplots

    found = {
        name: np.concatenate([row["numbers"][HALF_LIVES] for row in rows])
        for name in experiment.variants
        if (rows := experiment.rows(name)) and HALF_LIVES in rows[0]["numbers"]
    }
    if not found:
        return None
    low = min(x.min() for x in found.values())
    high = max(x.max() for x in found.values())
    bins = np.geomspace(low / 1.1, high * 1.1, 41)
    figure, axes = subplots(1, len(found), (6, 1.6 * len(found) + 0.6))
    for axis, (name, values) in zip(axes[:, 0], found.items(), strict=True):
        axis.hist(values, bins)
        axis.set_xscale("log")
        axis.set_xlim(bins[0], bins[-1])
        axis.set_title(name, fontsize=9)
        axis.axvline(math.log(0.5) / math.log(0.95), color="gray", linestyle=":")
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("half-life in bytes (dotted: at the start)")
    figure.savefig(path, dpi=120)
    return path


def half_life_table(experiment: Experiment) -> str:
    """Return a Markdown table of quantiles of learned half-lives."""
    lines = ["| half-life in bytes | 5 % | 25 % | 50 % | 75 % | 95 % |", "|---" * 6 + "|"]
    for name in experiment.variants:
        rows = experiment.rows(name)
        if rows and HALF_LIVES in rows[0]["numbers"]:
            values = np.concatenate([row["numbers"][HALF_LIVES] for row in rows])
            cells = [f"{x:.2f}" for x in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else "Not measured yet.\n"


def write(experiment: Experiment, outdir: Path, note: str = "") -> str:
    """Write report.md and the figure from the rows of the record; return the text.

    Args:
        experiment: the experiment.
        outdir: folder of both.
        note: a remark on all numbers.
    """
    text = "# Stimulus layers, bits per byte\n\n"
    parts: list[Callable[[Experiment], str]] = [table, answers, half_life_table, tuning]
    names = ["Best learning rate of each variant", "Answers", "Learned half-lives", "Tuning (dev)"]
    if note:
        text += f"{note}\n\n"
    for name, part in zip(names, parts, strict=True):
        text += f"## {name}\n\n{part(experiment)}\n"
    if file := draw_half_lives(experiment, outdir / "half_lives.png"):
        text += f"![half-lives]({file.name})\n"
    (outdir / "report.md").write_text(text)
    return text


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    args = parse(
        argv[1:],
        "python -m flaxae.models.byte_lm.stimulus_report",
        "Train and measure variants of the Stimulus layer, and write a report.",
    )
    space = read_space(CONFIG)
    preset = "quick" if args.quick else "full"
    base, variants = space["get_config"](preset), space["variants"](preset)
    keep_programs(args.workdir / "programs")
    runs = Experiment(base, chosen(variants, args.only), args.record)
    if not runs.train(args.workdir, half_lives):
        return 75
    note = QUICK if args.quick else ""
    print(write(Experiment(base, variants, args.record), args.workdir, note))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
