"""The grid's report: `python -m flaxae.models.byte_lm.grid_report --workdir W`.

It trains the cells of configs/byte_lm/grid.py as lanes of shared programs, side by side on the
CPU's cores, trains them again with the original schedule, measures the speeds of programs that stop
at k, and writes W/report.md (main effects, the bet on k = 2 in three comparisons, an older grid's
findings, all cells) with two scatter plots and learning curves. Each finished cell adds a row to
the record, a JSONL file; the same command continues.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.config.ranges import COUNT, ranged
from flaxae.data import byte_corpus
from flaxae.data.byte_corpus import ByteCorpus
from flaxae.models.byte_lm import baselines, grid_figures
from flaxae.models.byte_lm.experiments import read_space
from flaxae.models.byte_lm.grid import count_parameters
from flaxae.models.byte_lm.grid_bet import UNIFORM, bet_table, capped, reference, windows
from flaxae.models.byte_lm.grid_cells import Cell, small
from flaxae.models.byte_lm.grid_claims import effects_table, findings
from flaxae.models.byte_lm.grid_plan import Numbers, Plan
from flaxae.models.byte_lm.grid_train import (
    EQUAL,
    ORIGINAL,
    WINDOW,
    equal_runs,
    measure_rates,
    train,
    window_runs,
)
from flaxae.sweep import CODES
from flaxae.sweep.workers import cores

CONFIG = "configs/byte_lm/grid.py"
# Baselines in the figures: name, and whether it reads the training split.
REFERENCES = {
    ("xz -9e", False),
    ("Kneser-Ney, 2 context bytes", True),
    ("Kneser-Ney, 6 context bytes", True),
}
SHOWN = 100  # cells in the page's table; all are in the record
QUICK = "**QUICK: short runs of small cells and a part of the test split, to test the program.**"


def page(
    found: Numbers, plan: Plan, corpus: ByteCorpus, others: list[baselines.Row], note: str
) -> str:
    """Return the report as Markdown, without figures.

    Args:
        found: the numbers.
        plan: the runs that they are of.
        corpus: the data.
        others: baselines on the test split.
        note: a remark on all numbers; "": none.
    """
    bits = found.bits[EQUAL]
    beside = [
        capped(bits, found.diverged[EQUAL]),
        reference(bits),
        windows(bits, found.bits[WINDOW]),
    ]
    lines = ["# The grid of recurrent byte models", ""]
    lines += [note, ""] if note else []
    lines += [
        f"{len(bits) + len(found.diverged[EQUAL])} cells; bits per byte of the test split of "
        f"{corpus.manifest.name} (data {corpus.manifest.fingerprint}). Negative differences are "
        f"better. Cells above {UNIFORM:g} bits, a uniform distribution, count as diverged: they "
        "are named below the table of cells, and left out of all comparisons with their triples.",
        "",
        *(f"- {line}" for line in corpus.manifest.summary().split("\n")),
        "",
        "## The bet: k = 2 is best",
        "",
        "Mean differences over triples of cells that are equal in all but k, with 95 % bootstrap "
        "intervals over triples. Won: both below 0; lost: one above.",
        "",
        bet_table(found.bet()),
        f"Equal updates: {kilobytes(plan.total)} per cell. An update every k bytes: "
        f"{kilobytes(plan.size)} per cell, the same triples, evaluated on the first "
        f"{plan.counted:,} bytes of each of {plan.parts} parts of the test split. Equal time: "
        "speeds of programs whose backward pass really stops at k, measured one at a time; bits "
        "per byte are read off the learning curves.",
        "",
        *filter(None, beside),
        "## Findings of an older grid",
        "",
        findings(bits),
        "## Main effects",
        "",
        "Over pairs of cells (means over k) that differ in one factor, with bootstrap intervals; "
        "where there are few pairs, by least squares without interactions, with t intervals.",
        "",
        effects_table(bits),
        "## Cells",
        "",
        cells_table(found, plan, SHOWN),
        "Beside the baselines on the same split:",
        "",
        baselines.table(others),
    ]
    return "\n".join(lines) + "\n"


def kilobytes(size: int) -> str:
    """Return a number of bytes such as "983 kB"."""
    return f"{size // 1000:,} kB"


def cells_table(found: Numbers, plan: Plan, most: int) -> str:
    """Format the best cells as a Markdown table, the best first.

    Args:
        found: the numbers.
        plan: the runs that they are of.
        most: number of cells to show.
    """
    ranked = sorted(found.bits[EQUAL].items(), key=lambda item: item[1])
    sizes = kilobytes(plan.total), kilobytes(plan.size)
    lines = [
        f"| cell | parameters | L N | bits per byte, {sizes[0]} | update every k, {sizes[1]} "
        "| max state | corner |",
        "|---" * 7 + "|",
    ]
    for cell, value in ranked[:most]:
        original, largest = (x.get(cell) for x in (found.bits[ORIGINAL], found.largest))
        cells = [
            str(cell),
            f"{count_parameters(cell.options):,}",
            str(cell.recurrent_states),
            f"{value:.3f}",
            "" if original is None else f"{original:.3f}",
            "" if largest is None else f"{largest:.3g}",
            cell.corner,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if len(ranked) > most:
        lines += ["", f"The best {most} of {len(ranked)}; all are in the record."]
    for name, title in {EQUAL: "equal updates", ORIGINAL: "an update every k bytes"}.items():
        if cells := found.diverged[name]:
            largest = found.largest if name == EQUAL else {}
            shown = [diverged(cell, value, largest.get(cell)) for cell, value in cells.items()]
            lines += ["", f"Diverged, {title}: {'; '.join(shown)}."]
    return "\n".join(lines) + "\n"


def diverged(cell: Cell, value: float | None, largest: float | None) -> str:
    """Describe a cell that diverged.

    Args:
        cell: the cell.
        value: its bits per byte; None: not finite.
        largest: largest |state| during its training; None: not known.
    """
    bits = "not finite" if value is None else f"{value:,.1f} bits"
    return f"{cell} ({bits}{'' if largest is None else f', states up to {largest:.3g}'})"


def write(
    found: Numbers,
    plan: Plan,
    corpus: ByteCorpus,
    others: list[baselines.Row],
    outdir: Path,
    draw: bool = True,
) -> None:
    """Write report.md.

    Args:
        found: the numbers.
        plan: the runs that they are of.
        corpus: the data.
        others: baselines on the test split.
        outdir: the folder.
        draw: whether to draw the figures too.
    """
    note = QUICK if plan.quick else ""
    text = page(found, plan, corpus, others, note)
    if draw:
        references = {
            row.name: row.bits_per_byte
            for row in others
            if (row.name, row.reads_train) in REFERENCES
        }
        remark = note.strip("*").split(":")[0]
        bits, curves = found.bits[EQUAL], found.curves
        for file in grid_figures.draw(bits, curves, outdir, references, remark):
            text += f"\n![{file.stem}]({file.name})\n"
    (outdir / "report.md").write_text(text)


def measure(args: argparse.Namespace, plan: Plan, record: Path, update: Callable[[], Any]) -> int:
    """Train all cells and measure the speeds; return an exit code.

    Args:
        args: the options.
        plan: the runs.
        record: the file of rows.
        update: called after each program.
    """
    base, workdir, jobs = plan.base, args.workdir, args.jobs
    tested = plan.batches if plan.quick else 0
    runs = equal_runs([*plan.cells, *(plan.whole if args.reference else [])])
    stopped = train(base, runs, record, workdir, jobs, update, tested)
    # Speeds before the second part: nothing else runs now.
    seconds = 0.3 if plan.quick else 3.0
    stopped = stopped or measure_rates(base, plan.paired, record, workdir, seconds)
    again = plan.original(comparable(plan.paired, Numbers.read(record, plan)))
    stopped = stopped or train(base, again, record, workdir, jobs, update, plan.batches)
    if args.window:
        runs = window_runs(comparable(plan.windows, Numbers.read(record, plan)))
        stopped = stopped or train(plan.windowed, runs, record, workdir, jobs, update, tested)
    return CODES[stopped] if stopped else 0


def comparable(cells: list[Cell], found: Numbers) -> list[Cell]:
    """Return the cells of triples in which no cell diverged with equal updates.

    Args:
        cells: the cells.
        found: the numbers so far.
    """
    left_out = {cell._replace(bptt=0) for cell in found.diverged[EQUAL]}
    return [cell for cell in cells if cell._replace(bptt=0) not in left_out]


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    args = _parse(argv)
    more = small() if args.small else ()
    plan = Plan(read_space(CONFIG), args.path, args.all, args.quick, more)
    workdir = args.workdir = user_path(args.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    record = user_path(args.record) if args.record else workdir / "runs.jsonl"
    corpus = byte_corpus.read(args.path)
    cache = user_path(plan.base.data.cache)
    kept = cache / f"bytes-{corpus.manifest.fingerprint}-test.json"
    others = [*baselines.measure(corpus, "test", record=kept)]

    def update(draw: bool = False) -> None:
        write(Numbers.read(record, plan), plan, corpus, others, workdir, draw)

    code = measure(args, plan, record, update)
    if code:
        return code
    update(draw=True)
    print((workdir / "report.md").read_text())
    print(f"written to {workdir / 'report.md'}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.byte_lm.grid_report",
        description="Train the grid of recurrent byte models, and write a report. The same command "
        "continues after an interruption.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the runs and of report.md")
    parser.add_argument("--path", default="", help="data: a file or a folder, see data.path")
    parser.add_argument(
        "--reference", action="store_true", help="cells with k = U too, which the bet leaves out"
    )
    parser.add_argument(
        "--window",
        action="store_true",
        help="small cells whose gradients reach k - 1 bytes back from each byte, too",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="144 small cells too, which differ from each other in one factor at a time",
    )
    parser.add_argument("--all", action="store_true", help="all 648 cells, not a balanced ninth")
    parser.add_argument(
        "--quick", action="store_true", help="small cells and short runs, marked in the report"
    )
    parser.add_argument(
        "--record", metavar="FILE", help="rows of finished cells; default: WORKDIR/runs.jsonl"
    )
    parser.add_argument(
        "--jobs",
        type=ranged("--jobs", int, COUNT),
        default=min(2, len(cores())),
        metavar="N",
        help="programs side by side, each on its share of the cores; default: 2",
    )
    return parser.parse_args(argv[1:])


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
