"""The report on probes: `python -m flaxae.models.probes.experiments --workdir W`.

Each run of configs/probes/report.py is trained, its states are collected, and all probes are
fitted and measured. The base's states are collected once for all runs. Each run adds a row to the
record, a JSONL file; runs with a row are not repeated, and the same command continues after an
interruption. W/report.md is made from rows.
"""

import argparse
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from flax import nnx

from flaxae.command import run_main
from flaxae.config import Config
from flaxae.config.locate import user_path
from flaxae.config.ranges import COUNT, ranged
from flaxae.errors import ConfigError
from flaxae.machine.compile_cache import keep_programs
from flaxae.models.probes import report, report_page, verdicts
from flaxae.models.probes.run_states import collect_run
from flaxae.sparse_autoencoder.api import SAE
from flaxae.storage.fingerprint import fingerprint
from flaxae.sweep.record import Row, complete
from flaxae.training.load import load
from flaxae.training.loop import run

CONFIG = "configs/probes/report.py"
FORMAT = 2  # of a run's numbers; rows of another format are measured again
QUICK = "QUICK: few steps on few examples, to test the program; not the report's numbers."


def measure(
    config: Config, key: str, workdir: Path, sae: SAE | None, draws: int
) -> dict[str, Any] | None:
    """Train a run, collect its states, and measure all probes.

    Args:
        config: of the run.
        key: its hash, which names its folder.
        workdir: parent of the runs' folders, and of the states.
        sae: a dictionary of states of the base, or None.
        draws: resamples of the intervals.

    Returns:
        "numbers", and "seconds" of this process; None: a signal interrupted the training.
    """
    start = time.monotonic()
    if not run(config, workdir / key).finished:
        return None
    layers = (sae.origin.layer,) if sae is not None and sae.origin.layer is not None else ()
    loaded = load(workdir / key)
    states = collect_run(loaded, workdir / "states", also=layers)
    numbers = report.measure_run(states, draws, sae)
    return {"numbers": numbers, "seconds": round(time.monotonic() - start)}


def write(rows: list[Row], workdir: Path, note: str) -> Path:
    """Write the report of finished runs: verdicts, then the tables of each run.

    Args:
        rows: of the record.
        workdir: folder of the report.
        note: shown at the top.

    Returns:
        The path of report.md.
    """
    hours = sum(row["seconds"] for row in rows) / 3600
    spent = (
        f"The {len(rows)} runs took {hours:.2f} hours, without what stopped processes did before."
        "\n\n"
    )
    named = {f"{row['variant']}, seed {row['seed']}": row["numbers"] for row in rows}
    return report_page.write(named, workdir, note, spent + verdicts.tables(rows))


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.probes.experiments",
        description="Train interventions, collect states, fit all probes, and write a report. The "
        "same command continues after an interruption.",
    )
    parser.add_argument("--workdir", required=True, help="folder of runs, states and report")
    parser.add_argument("--level", choices=("", "quick"), default="", help='"" or quick')
    parser.add_argument("--all", action="store_true", help="all interventions, IA3 and LoRA")
    parser.add_argument("--record", metavar="FILE", help="default: WORKDIR/runs.jsonl")
    parser.add_argument("--sae", default="", help="a dictionary of the base's states (SAELens)")
    draws = ranged("--draws", int, COUNT)
    parser.add_argument("--draws", type=draws, default=500, help="bootstrap resamples")
    args = parser.parse_args(argv[1:])
    if not Path(CONFIG).is_file():
        raise ConfigError(f"there is no {CONFIG} here: run this in flaxae's repository")
    workdir = Path(str(user_path(args.workdir)))
    workdir.mkdir(parents=True, exist_ok=True)
    keep_programs(workdir / "programs")
    record = Path(str(user_path(args.record))) if args.record else workdir / "runs.jsonl"
    sae = SAE.from_pretrained(args.sae) if args.sae else None
    values: Any = nnx.to_pure_dict(nnx.state(sae.module)) if sae is not None else {}
    settings = {"draws": args.draws, "sae": fingerprint(values), "format": FORMAT}
    runs = runpy.run_path(CONFIG)["get_runs"](args.level, args.all)
    note = QUICK if args.level else ""
    finished = complete(
        record,
        runs,
        lambda config, key: measure(config, key, workdir, sae, args.draws),
        settings=settings,
        after=lambda rows: write(rows, workdir, note),
    )
    if not finished:
        return 75
    path = workdir / "report.md"
    print(path.read_text())
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
