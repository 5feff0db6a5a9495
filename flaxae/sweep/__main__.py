"""A grid of overrides of one config: `python -m flaxae.sweep --config=FILE --workdir=DIR`."""

import argparse
import sys

from flaxae import hugepages
from flaxae.config import flags
from flaxae.errors import CheckpointError, ConfigError
from flaxae.storage import paths
from flaxae.sweep.plan import Plan
from flaxae.sweep.runs import exit_code, sweep


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.sweep",
        description="Trains a grid of overrides, or the runs that the config file names; "
        "--config.a.b=v flags set the base.",
    )
    parser.add_argument("--config", required=True, help="a file of configs/")
    parser.add_argument("--workdir", required=True, help="one folder a run, and the tables")
    parser.add_argument("--grid", action="append", default=[], metavar="FIELD=V1,V2,...",
                        help="a field and its values; may be repeated")  # fmt: skip
    parser.add_argument("--no-lanes", action="store_true", help="one program a run")
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="programs side by side, each on its share of the cores")  # fmt: skip
    args, rest = parser.parse_known_args(argv)
    try:
        config, workdir = flags.parse(
            ["sweep", f"--config={args.config}", f"--workdir={args.workdir}", *rest]
        )[:2]
        plan = Plan.of(args.config, args.grid)
        tables = paths.as_path(workdir) / plan.folder
        rows = sweep(config, plan.runs, workdir, not args.no_lanes, tables, args.jobs)
        code = exit_code(rows)
        text = (tables / "table.md").read_text()
        if plan.finish is not None and not code:
            text = plan.finish(rows, paths.as_path(workdir), tables)
    except (ConfigError, CheckpointError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(text)
    return code


if __name__ == "__main__":
    hugepages.restart()
    sys.exit(main())
