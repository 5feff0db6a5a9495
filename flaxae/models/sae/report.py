"""The report on dictionaries: `python -m flaxae.models.sae.report --workdir W`.

One pass of the language model fills W/cache with the states of all hooks. Then the runs of
configs/sae/report.py are trained on them and measured; the weights of sparsity losses are found by
pilots. Each run adds a row to the record, a JSONL file; runs with a row are not trained again, and
the same command continues after an interruption. W/report.md and the figure are made from rows.
"""

import argparse
import runpy
import sys
from pathlib import Path

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.errors import ConfigError
from flaxae.machine.compile_cache import keep_programs
from flaxae.models.sae.report_page import PARETO
from flaxae.models.sae.report_runs import Interrupted, Report

CONFIG = "configs/sae/report.py"


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.sae.report",
        description="Train and measure all architectures on the same hidden states, and write a "
        "report. The same command continues after an interruption.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the cache, runs and report")
    parser.add_argument("--level", default="", help='"" (1.02 M tokens), small (.3 M), quick')
    parser.add_argument(
        "--record", metavar="FILE", help="rows of finished runs; default: WORKDIR/runs.jsonl"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="runs, or pareto")
    parser.add_argument("--fill-only", action="store_true", help="fill the cache of states only")
    parser.add_argument("--page-only", action="store_true", help="write the page of the rows only")
    parser.add_argument(
        "--no-sets", action="store_true", help="no probes on the data sets of sae-probes"
    )
    args = parser.parse_args(argv[1:])
    if not Path(CONFIG).is_file():
        raise ConfigError(f"there is no {CONFIG} here: run this in flaxae's repository")
    space = runpy.run_path(CONFIG)
    if args.level not in space["LEVELS"]:
        levels = ", ".join(repr(x) for x in space["LEVELS"])
        raise ConfigError(f"--level={args.level}: there are {levels}")
    names = {*space["SPARSE"], *space["OTHERS"], *space["CODES"], PARETO}
    if unknown := set(args.only) - names:
        raise ConfigError(
            f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}"
        )
    workdir = user_path(args.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    record = user_path(args.record) if args.record else workdir / "runs.jsonl"
    keep_programs(workdir / "programs")
    report = Report(space, args.level, workdir, record, sets=not args.no_sets)
    if args.page_only:
        report.write()
        return 0
    if args.fill_only:
        report.fill()
        return 0
    try:
        report.run(args.only)
    except Interrupted:
        return 75
    print((workdir / "report.md").read_text())
    print(f"written to {workdir / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
