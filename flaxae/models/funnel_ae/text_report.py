"""Reconstruction against numbers per text: `python -m flaxae.models.funnel_ae.text_report`.

It trains the runs of configs/funnel_ae/text_report.py, adds a row of numbers per run to a record,
and writes one table. Runs with a row are not trained again. The report of a T5-VAE, from
`python -m flaxae.evaluate RUN --json FILE`, becomes a row of the table, whose cross entropy is that
of teacher forcing.
"""

import argparse
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import Config
from flaxae.config.locate import user_path
from flaxae.config.ranges import Range, ranged
from flaxae.errors import ConfigError
from flaxae.measures.claims import cell
from flaxae.sweep.record import Row, complete

CONFIG = "configs/funnel_ae/text_report.py"
RECORD = "configs/funnel_ae/text_report.jsonl"
SPLIT = "dev"
# Heading -> metric of the dev split, decoded without skips.
COLUMNS = {
    "exact match": "exact_match",
    "token accuracy": "token_accuracy",
    "first token": "first_token_accuracy",
    "CE (nats per token)": "recon",
}


def train(config: Config, workdir: Path) -> dict[str, Any] | None:
    """Train a run, if needed, and return its row; None if a signal interrupted it."""
    from flaxae.storage.metrics_file import Writer
    from flaxae.training.loop import run

    start = time.perf_counter()
    result = run(config, workdir)
    if not result.finished:
        return None
    seconds = round(time.perf_counter() - start) if result.status == "done" else None
    rows = Writer(workdir, config.log).evaluations()
    last = [row for row in rows if row["split"] == SPLIT][-1]
    return {
        "numbers": {heading: last.get(name) for heading, name in COLUMNS.items()},
        "floats": floats(config),
        "steps": config.steps,
        "seconds": seconds,  # with compilation and evaluation, beside the other work of the machine
    }


def floats(config: Config) -> int:
    """Return the numbers of a text's code."""
    from flax import nnx

    task = config.task.make(config)
    model: Any = nnx.eval_shape(lambda: task.init(nnx.Rngs(params=0, frozen=1)))
    return model.num_latents * model.dim


def reported(path: Path, size: int) -> Row:
    """Return the row of a T5-VAE's report by `python -m flaxae.evaluate`.

    Args:
        path: the file.
        size: numbers of its codes.

    Raises:
        ConfigError: if the file is not such a report.
    """
    try:
        found = json.loads(path.read_text())
        split, steps = found["splits"][SPLIT], int(found["step"])
        numbers = {heading: split.get(name) for heading, name in COLUMNS.items()}
        if isinstance(study := found.get("likelihood"), dict):
            numbers["CE (nats per token)"] = study["cross_entropy"]["value"]  # teacher-forced
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--t5_vae={path}: not a report with the split {SPLIT!r} ({error!r}); write one by "
            "`python -m flaxae.evaluate RUN --json FILE`"
        ) from None
    return {"variant": "t5_vae", "numbers": numbers, "floats": size, "steps": steps}


def table(rows: list[Row]) -> str:
    """Return a Markdown table with one row per variant and number of steps."""
    lines = [
        "| model | floats per text | steps | seeds | " + " | ".join(COLUMNS) + " |",
        "|---" * (4 + len(COLUMNS)) + "|",
    ]
    for key in dict.fromkeys((row["variant"], row["floats"], row["steps"]) for row in rows):
        same = [r for r in rows if (r["variant"], r["floats"], r["steps"]) == key]
        cells = [cell([row["numbers"].get(column) for row in same]) for column in COLUMNS]
        name, size, steps = key
        head = f"| {name.replace('_', ' ')} | {size} | {steps:,} | {len(same)} |"
        lines.append(f"{head} {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.funnel_ae.text_report",
        description="Train text autoencoders of several code sizes, and write one table.",
    )
    parser.add_argument("--workdir", required=True, help="one folder per run, and the table")
    parser.add_argument("--record", default=RECORD, help=f"rows of finished runs; {RECORD}")
    parser.add_argument("--config", default=CONFIG, help="defines get_config and RUNS")
    minutes = ranged("--minutes", float, Range(0, 1000, "(]"))
    parser.add_argument("--minutes", type=minutes, help="training per run; default: the config's")
    parser.add_argument("--only", nargs="+", default=[], metavar="RUN", help="default: all")
    parser.add_argument("--t5_vae", default="", metavar="FILE", help="a report of evaluate --json")
    sizes = ranged("--t5_floats", int, Range(1, 2**20))
    parser.add_argument("--t5_floats", type=sizes, default=256, help="numbers of its codes")
    args = parser.parse_args(argv[1:])
    file = user_path(args.config)
    if not file.is_file():
        raise ConfigError(f"--config={args.config}: no such file; run this in flaxae's repository")
    space = runpy.run_path(str(file))
    names, time_of = space["RUNS"], {} if args.minutes is None else {"minutes": args.minutes}
    if unknown := set(args.only) - set(names):
        raise ConfigError(f"--only: no {', '.join(unknown)}; there are {', '.join(names)}")
    runs = []
    for name, (_, _, seeds) in names.items():
        for seed in seeds if not args.only or name in args.only else ():
            config = space["get_config"](name, **time_of)
            config.seed = seed
            runs.append((name, config))
    runs.sort(key=lambda run: run[1].seed)  # all runs get a seed before any gets the next one
    others = [reported(user_path(args.t5_vae), args.t5_floats)] if args.t5_vae else []
    workdir = user_path(args.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if not complete(
        user_path(args.record),
        runs,
        lambda config, key: train(config, workdir / key),
        columns=COLUMNS,
        after=lambda rows: (workdir / "table.md").write_text(table([*rows, *others])),
    ):
        return 75
    print((workdir / "table.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
