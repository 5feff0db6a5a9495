"""The command that evaluates a trained run: `python -m flaxae.evaluate WORKDIR`."""

import argparse
import json
import sys
from pathlib import Path

from flaxae.command import run_main
from flaxae.config import flags
from flaxae.config.locate import user_path
from flaxae.errors import ConfigError
from flaxae.measures.stats import finite
from flaxae.training.report import REPORT, evaluate, report_folder


def main(argv: list[str]) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.evaluate",
        description="The task's whole evaluation of a trained run: a text, figures and JSON.",
    )
    parser.add_argument("workdir", help="the run's folder")
    parser.add_argument("--json", metavar="FILE", help="also write the report to this file")
    parser.add_argument(
        "--outdir", default="", help=f"folder of the figures; default: WORKDIR/{REPORT}"
    )
    parser.add_argument(
        "--which",
        choices=["auto", "latest", "best"],
        default="auto",
        help="the checkpoint; auto: the best one if the run keeps it",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="the run's config file, if its task is not flaxae's own"
    )
    args = parser.parse_args(argv[1:])
    config_class = type(flags.load_config(args.config).task) if args.config else None
    file = user_path(args.json) if args.json else None
    if file is not None:
        _check_writable(file)  # before the evaluation, which takes minutes
    result = evaluate(args.workdir, args.outdir, config_class, args.which)
    if file is not None:
        try:
            file.write_text(json.dumps(finite(result), indent=2) + "\n")
        except OSError as e:
            raise ConfigError(f"--json={file}: {e.strerror}") from None
    print(f"written to {report_folder(args.workdir, args.outdir)}")
    return 0


def _check_writable(file: Path) -> None:
    """Raise ConfigError if a file cannot be written; leave it as it is."""
    try:
        new = not file.exists()
        with file.open("a"):
            pass
    except OSError as e:
        raise ConfigError(f"--json={file}: {e.strerror}") from None
    if new:
        file.unlink()


if __name__ == "__main__":
    sys.exit(run_main(main))
