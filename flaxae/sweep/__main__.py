"""A grid of overrides of one config: `python -m flaxae.sweep --config=FILE --workdir=DIR`."""

import argparse
import sys

from flaxae.command import run_main
from flaxae.config import flags
from flaxae.config.ranges import COUNT, ranged
from flaxae.storage import paths
from flaxae.sweep.plan import Plan
from flaxae.sweep.runs import exit_code, sweep


def main(argv: list[str]) -> int:
    """Train the runs that a command line names, and print their table.

    Args:
        argv: the command line, the program's name first.

    Returns:
        The exit code (see `exit_code`).
    """
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.sweep",
        description="Trains a grid of overrides, or the runs that the config file names; "
        "--config.a.b=v flags set the base.",
    )
    parser.add_argument("--config", required=True, help="the base config's file, FILE[:PRESET]")
    parser.add_argument("--workdir", required=True, help="folder of the runs and the tables")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="FIELD=V1,V2,...",
        help="a field and its values; may be repeated: all combinations are trained",
    )
    parser.add_argument("--no-lanes", action="store_true", help="train one run per program")
    parser.add_argument(
        "--jobs",
        type=ranged("--jobs", int, COUNT),
        default=1,
        metavar="N",
        help="number of programs that run at the same time, each on its share of the cores",
    )
    args, rest = parser.parse_known_args(argv[1:])
    config, workdir, _ = flags.parse(
        ["sweep", f"--config={args.config}", f"--workdir={args.workdir}", *rest]
    )
    plan = Plan.of(args.config, args.grid)
    tables = paths.as_path(workdir) / plan.folder
    rows = sweep(config, plan.runs, workdir, not args.no_lanes, tables, args.jobs)
    code = exit_code(rows)
    text = (tables / "table.md").read_text()
    if plan.finish is not None and not code:
        text = plan.finish(rows, paths.as_path(workdir), tables)
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
