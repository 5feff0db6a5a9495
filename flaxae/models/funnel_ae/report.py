"""Experiments on a toy: `python -m flaxae.models.funnel_ae.report --workdir W`.

It trains every variant of configs/funnel_ae/report.py with several seeds, measures each run without
skips, and writes W/report.md (a table, claims with verdicts) and figures. Runs are named by the
hash of their config. Each finished one adds a row to the record, a JSONL file; runs with a row are
not trained again, and table, verdicts and figures are made from rows alone.
"""

import argparse
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import Config, config_hash, copy_config
from flaxae.config.locate import user_path
from flaxae.config.ranges import SEEDS, ranged
from flaxae.errors import ConfigError
from flaxae.machine.compile_cache import keep_programs
from flaxae.models.funnel_ae import report_claims, report_figures
from flaxae.sweep.record import Row, complete, read_record

CONFIG = "configs/funnel_ae/report.py"
COLUMNS = ("ce", "exact_match")  # numbers that each row must have


def train_and_measure(config: Config, workdir: Path) -> dict[str, Any] | None:
    """Train a run, or continue it, and measure it; None if a signal interrupted it."""
    from flaxae.models.funnel_ae.report_measures import measure_run
    from flaxae.training.loop import run

    if not run(config, workdir).finished:
        return None
    trained = json.loads((workdir / "versions.json").read_text())["commit"]
    return {"numbers": measure_run(workdir), "commit": trained}


def current_rows(record: Path, base: Config, variants: dict[str, dict[str, Any]]) -> list[Row]:
    """Return the rows of a record that belong to today's variants of a config, by seed."""
    rows = [
        row
        for row in read_record(record, COLUMNS).values()
        if row["variant"] in variants
        and row["run"] == config_hash(variant(base, variants[row["variant"]], row["seed"]))
    ]
    return sorted(rows, key=lambda row: row["seed"])


def variant(base: Config, overrides: dict[str, Any], seed: int) -> Config:
    """Return the config of a run."""
    return copy_config(base, {**overrides, "seed": seed})


def write(
    rows: list[Row], outdir: Path, variants: list[str], quick: bool = False, draw: bool = True
) -> None:
    """Write report.md and, if asked, the figures that the rows are enough for."""
    text = report_claims.page(rows, variants, quick)
    if draw:
        note = "QUICK: few steps of a narrow model" if quick else ""
        for file in report_figures.draw(rows, outdir, note):
            text += f"\n![{file.stem}]({file.name})\n"
    (outdir / "report.md").write_text(text)


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.funnel_ae.report",
        description="Train and measure all variants on uniform tokens, and write a report. The "
        "same command continues after an interruption.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the runs and of the report")
    parser.add_argument(
        "--quick", action="store_true", help="a small variant, marked as such in the report"
    )
    parser.add_argument(
        "--record", metavar="FILE", help="rows of finished runs; default: WORKDIR/runs.jsonl"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=ranged("--seeds", int, SEEDS),
        default=[],
        help="default: 0 to 4 of upsamplers and baselines, 0 to 2 of the others; quick: 0 and 1",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="variants to run")
    args = parser.parse_args(argv[1:])
    file = Path(CONFIG)
    if not file.is_file():
        raise ConfigError(f"there is no {CONFIG} here: run this in flaxae's repository")
    space = runpy.run_path(str(file))
    base, left_out = space["get_config"]("quick" if args.quick else ""), space["FULL_ONLY"]
    variants = {k: v for k, v in space["VARIANTS"].items() if not (args.quick and k in left_out)}
    if unknown := set(args.only) - set(variants):
        raise ConfigError(
            f"--only: unknown {', '.join(sorted(unknown))}; there are {', '.join(variants)}"
        )
    workdir = user_path(args.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    record = user_path(args.record) if args.record else workdir / "runs.jsonl"
    keep_programs(workdir / "programs")

    def seeds(name: str) -> int:
        return 2 if args.quick else 5 if name in space["MANY"] else 3

    # All variants get a seed before any gets the next one: unfinished tables are comparable.
    runs = [
        (name, variant(base, overrides, seed))
        for seed in args.seeds or range(5)
        for name, overrides in variants.items()
        if (name in args.only or not args.only) and (args.seeds or seed < seeds(name))
    ]

    def update(_: list[Row]) -> None:
        rows = current_rows(record, base, variants)
        write(rows, workdir, list(variants), args.quick, draw=False)

    def measure(config: Config, key: str) -> dict[str, Any] | None:
        return train_and_measure(config, workdir / key)

    if not complete(record, runs, measure, columns=COLUMNS, after=update):
        return 75
    write(current_rows(record, base, variants), workdir, list(variants), args.quick)
    print((workdir / "report.md").read_text())
    print(f"written to {workdir / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
