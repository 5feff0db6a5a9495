"""The grid's report: `python -m flaxae.models.byte_lm.grid_report --workdir W`.

It trains the cells of configs/byte_lm/grid.py as lanes of shared programs, side by side on the
CPU's cores, trains them again with the original schedule, measures the speeds of programs that stop
at k, and writes W/report.md (main effects, the bet on k = 2 in three comparisons, an older grid's
findings, all cells) with two scatter plots and learning curves. Each finished cell adds a row to
the record, a JSONL file; the same command continues.
"""

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

from flaxae.command import run_main
from flaxae.config import Config
from flaxae.config.locate import user_path
from flaxae.config.ranges import COUNT, ranged
from flaxae.data import byte_corpus
from flaxae.data.byte_corpus import ByteCorpus
from flaxae.errors import ConfigError
from flaxae.models.byte_lm import baselines, grid_figures
from flaxae.models.byte_lm.grid import count_parameters
from flaxae.models.byte_lm.grid_cells import Cell, all_cells, fraction, whole_updates
from flaxae.models.byte_lm.grid_claims import (
    Bits,
    Curve,
    at_equal_time,
    bet_table,
    effects_table,
    findings,
    reference,
)
from flaxae.models.byte_lm.grid_train import (
    EQUAL,
    ORIGINAL,
    ORIGINAL_BYTES,
    RATE,
    equal_runs,
    measure_rates,
    original_runs,
    rated,
    train,
)
from flaxae.sweep import CODES
from flaxae.sweep.record import read_record
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


class Numbers(NamedTuple):
    """The numbers of a record.

    Attributes:
        bits: variant -> bits per byte on the test split, by cell.
        curves: learning curves of equal updates, by cell.
        rates: bytes per second of programs that stop at k, by cell.
        largest: largest |state| of doubly gated cells.
        failed: cells that were not finite.
    """

    bits: dict[str, Bits]
    curves: dict[Cell, Curve]
    rates: dict[Cell, float]
    largest: Bits
    failed: list[Cell]

    @classmethod
    def read(cls, record: Path, wanted: set[Cell]) -> "Numbers":
        """Read the rows of some cells."""
        cells = [*all_cells(), *whole_updates(all_cells())]
        names = {str(cell): cell for cell in cells}
        out = cls({EQUAL: {}, ORIGINAL: {}}, {}, {}, {}, [])
        for row in read_record(record).values():
            cell, numbers = names[row["cell"]], row["numbers"]
            if row["variant"] == RATE:
                out.rates[cell] = numbers["bytes_per_second"]
            elif cell in wanted and numbers["bits_per_byte"] is None:
                out.failed.append(cell)
            elif cell in wanted:
                out.bits[row["variant"]][cell] = numbers["bits_per_byte"]
                if row["variant"] == EQUAL:
                    out.curves[cell] = numbers["curve"]
                    if "max_state" in numbers:
                        out.largest[cell] = numbers["max_state"]
        return out

    def bet(self) -> dict[str, Bits]:
        """Return the numbers that the bet compares, by name of the comparison."""
        timed = at_equal_time(self.curves, lambda cell: self.rates.get(rated(cell)))
        return {
            "equal bytes, equal updates": self.bits[EQUAL],
            "equal bytes, an update every k bytes": self.bits[ORIGINAL],
            "equal time, equal updates (dev)": timed,
        }


def page(found: Numbers, corpus: ByteCorpus, others: list[baselines.Row], note: str) -> str:
    """Return the report as Markdown, without figures."""
    bits = found.bits[EQUAL]
    lines = ["# The grid of recurrent byte models", ""]
    lines += [note, ""] if note else []
    lines += [
        f"{len(bits)} cells; bits per byte of the test split of {corpus.manifest.name} (data "
        f"{corpus.manifest.fingerprint}). Negative differences are better.",
        "",
        *(f"- {line}" for line in corpus.manifest.summary().split("\n")),
        "",
        "## The bet: k = 2 is best",
        "",
        "Mean differences over triples of cells that are equal in all but k, with 95 % bootstrap "
        "intervals over triples. Won: both below 0; lost: one above.",
        "",
        bet_table(found.bet()),
        f"An update every k bytes: {ORIGINAL_BYTES // 1000} kB per cell, evaluated on the first "
        "3,072 bytes of each of 32 parts of the test split. Equal time: speeds of programs whose "
        "backward pass really stops at k, measured one at a time; bits per byte are read off the "
        "learning curves.",
        "",
        *([reference(bits)] if reference(bits) else []),
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
        cells_table(found, SHOWN),
        "Beside the baselines on the same split:",
        "",
        baselines.table(others),
    ]
    return "\n".join(lines) + "\n"


def cells_table(found: Numbers, most: int) -> str:
    """Format the best cells as a Markdown table, the best first."""
    ranked = sorted(found.bits[EQUAL].items(), key=lambda item: item[1])
    lines = [
        "| cell | parameters | L N | bits per byte | update every k | max state | corner |",
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
    if found.failed:
        lines += ["", f"Not finite: {', '.join(map(str, found.failed))}."]
    return "\n".join(lines) + "\n"


def write(
    found: Numbers,
    corpus: ByteCorpus,
    others: list[baselines.Row],
    outdir: Path,
    note: str,
    draw: bool = True,
) -> None:
    """Write report.md and, if asked, the figures."""
    text = page(found, corpus, others, note)
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


def measure(args: argparse.Namespace, space: dict[str, Any], record: Path, update: Any) -> int:
    """Train all cells and measure the speeds; return an exit code."""
    preset = "quick" if args.quick else "all" if args.all else ""
    base: Config = space["get_config"](preset)
    base.data.path = args.path  # pyright: ignore[reportAttributeAccessIssue]
    cells: list[Cell] = space["get_cells"](preset)
    paired = cells if args.quick else fraction()
    short = base.eval.num_batches if args.quick else 32
    size = ORIGINAL_BYTES // 16 if args.quick else ORIGINAL_BYTES
    more = whole_updates(paired) if args.reference else []
    workdir, jobs, runs = args.workdir, args.jobs, equal_runs([*cells, *more])
    stopped = train(base, runs, record, workdir, jobs, update, short if args.quick else 0)
    # Speeds before the second part: nothing else runs now.
    stopped = stopped or measure_rates(base, paired, record, workdir, 0.3 if args.quick else 3.0)
    again = original_runs(base, paired, size)
    stopped = stopped or train(base, again, record, workdir, jobs, update, short)
    return CODES[stopped] if stopped else 0


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    args = _parse(argv)
    file = user_path(CONFIG)
    if not file.is_file():
        raise ConfigError(f"there is no {CONFIG} here: run this in flaxae's repository")
    space = runpy.run_path(str(file))
    workdir = args.workdir = user_path(args.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    record = user_path(args.record) if args.record else workdir / "runs.jsonl"
    corpus = byte_corpus.read(args.path)
    cache = user_path(space["get_config"]().data.cache)
    kept = cache / f"bytes-{corpus.manifest.fingerprint}-test.json"
    others = [*baselines.measure(corpus, "test", record=kept)]
    cells = space["get_cells"]("quick" if args.quick else "all")
    wanted = {*cells, *whole_updates(cells)}
    note = QUICK if args.quick else ""

    def update(draw: bool = False) -> None:
        write(Numbers.read(record, wanted), corpus, others, workdir, note, draw)

    code = measure(args, space, record, update)
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
