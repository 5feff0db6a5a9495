"""Comparison of objectives: `python -m flaxae.models.t5_vae.baselines`.

It trains every variant of configs/t5_vae/baselines.py with several seeds, evaluates each run, and
writes one table per data set. Runs are named by the hash of their config, and finished ones are not
repeated. `runs.jsonl`, or the file given as `--record`, contains one row of numbers per run; this
file is enough to continue on another machine.
"""

import argparse
import dataclasses
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import Config, copy_config
from flaxae.config.locate import user_path
from flaxae.config.ranges import SEEDS, ranged
from flaxae.data.config import text_data
from flaxae.errors import ConfigError
from flaxae.measures.claims import cell, look_up
from flaxae.measures.stats import finite
from flaxae.models.t5_vae.evaluation.studies import Sizes
from flaxae.sweep.record import complete
from flaxae.training.report import REPORT

CONFIG = "configs/t5_vae/baselines.py"
SIZES = Sizes(samples=500, codes=2000, pairs=50, factors=500, draws=300)
# Heading -> path of the number in a report. All are of the dev split.
COLUMNS = {
    "exact match": "splits.dev.exact_match",
    "token accuracy": "splits.dev.token_accuracy",
    "BLEU": "splits.dev.bleu",
    "shuffled gap (nats a token)": "likelihood.shuffled_gap.value",
    "MMD² / null p95": "latent.mmd_with_noise_over_null",
    "active units": "latent.active_units",
    "samples valid": "samples.validity",
    "distinct-2": "samples.distinct_2",
    "path ratio": "interpolation.slerp.path_ratio.value",
    "distinct / steps": "interpolation.slerp.distinct.value",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table with one row per variant, in order of first appearance.

    Args:
        rows: rows of a record, all of one data set.
    """
    lines = [
        "| objective | seeds | " + " | ".join(COLUMNS) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for name in dict.fromkeys(row["variant"] for row in rows):
        of_variant = [row["numbers"] for row in rows if row["variant"] == name]
        cells = [cell([numbers[column] for numbers in of_variant]) for column in COLUMNS]
        lines.append(f"| {name.replace('_', ' ')} | {len(of_variant)} | {' | '.join(cells)} |")
    # Rows from before November 2026 do not name their order.
    orders = sorted({row.get("order", "") for row in rows})
    if len(orders) > 1:
        names = ", ".join(order or "before November 2026" for order in orders)
        lines += ["", f"The runs have batches in different orders: {names}."]
    return "\n".join(lines) + "\n"


def train_and_evaluate(
    config: Config, workdir: Path, sizes: Sizes | None = None
) -> dict[str, Any] | None:
    """Train and evaluate a run, if needed; a report with other sizes is made again.

    Args:
        config: the run's config.
        workdir: its folder.
        sizes: numbers of lines and samples of the evaluation; None: SIZES.

    Returns:
        The run's report, and under "order" the algorithm of the order of its batches ("": of before
        November 2026). None if a signal interrupted the training.
    """
    from flaxae.models.t5_vae.evaluation import report
    from flaxae.storage.checkpoint import read_arrays
    from flaxae.task import ORDER_MARK
    from flaxae.training.load import load
    from flaxae.training.loop import run

    path, sizes = workdir / REPORT / "report.json", sizes or SIZES
    found = json.loads(path.read_text()) if path.exists() else {}
    asked = dataclasses.asdict(sizes)
    if "text_space" not in found or found.get("sizes", asked) != asked:
        if not run(config, workdir).finished:
            return None
        report(load(workdir), str(path.parent), sizes)
    # The workdir may have been trained by an older version.
    order = read_arrays(workdir)[1].get("data", "").partition(ORDER_MARK)[2]
    return {**json.loads(path.read_text()), "order": order}


def run_all(
    config: Config,
    variants: dict[str, dict[str, Any]],
    seeds: list[int],
    outdir: Path,
    record: Path,
) -> bool:
    """Train and evaluate all variants, one seed after another; update the table after each run.

    Args:
        config: the config that all runs share.
        variants: overrides by name.
        seeds: seeds of every variant.
        outdir: receives one folder per run, and the table.
        record: file with one row per run; runs with a row are not trained.

    Returns:
        False if a signal ended it; the same call then continues.
    """

    def measure(one: Config, key: str) -> dict[str, Any] | None:
        found = train_and_evaluate(one, outdir / key)
        if found is None:
            return None
        # None where a report has no number, such as the validity of English.
        numbers = finite({column: look_up(found, path) for column, path in COLUMNS.items()})
        return {"dataset": text_data(config).name, "numbers": numbers, "order": found["order"]}

    return complete(
        record,
        [
            (name, copy_config(config, {**overrides, "seed": seed}))
            for seed in seeds
            for name, overrides in variants.items()
        ],
        measure,
        columns=COLUMNS,
        after=lambda rows: (outdir / "table.md").write_text(table(rows)),
    )


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.t5_vae.baselines",
        description="Compare objectives over several seeds, with one table per data set.",
    )
    parser.add_argument(
        "--workdir", required=True, help="one folder per data set, with one folder per run"
    )
    parser.add_argument("--datasets", nargs="+", default=["python_lines", "docstrings"])
    parser.add_argument("--seeds", nargs="+", type=ranged("--seeds", int, SEEDS), default=[0, 1, 2])
    parser.add_argument("--config", default=CONFIG, help="defines get_config and VARIANTS")
    parser.add_argument("--variants", nargs="+", default=[], help="default: all")
    parser.add_argument(
        "--record", metavar="FILE", help="rows of finished runs; default: WORKDIR/runs.jsonl"
    )
    args = parser.parse_args(argv[1:])
    file = user_path(args.config)
    if not file.is_file():
        raise ConfigError(f"--config={args.config}: no such file; run this in flaxae's repository")
    namespace = runpy.run_path(str(file))
    if missing := {"VARIANTS", "get_config"} - set(namespace):
        raise ConfigError(f"--config={args.config} defines no {' and no '.join(sorted(missing))}")
    variants = namespace["VARIANTS"]
    if unknown := set(args.variants) - set(variants):
        raise ConfigError(f"--variants: no {', '.join(unknown)}; there are {', '.join(variants)}")
    variants = {k: v for k, v in variants.items() if not args.variants or k in args.variants}
    workdir = user_path(args.workdir)
    record = user_path(args.record) if args.record else workdir / "runs.jsonl"
    # All data sets get a seed before any gets the next one: unfinished tables are comparable.
    for count in range(1, len(args.seeds) + 1):
        for name in args.datasets:
            folder = workdir / name
            folder.mkdir(parents=True, exist_ok=True)
            seeds = args.seeds[:count]
            if not run_all(namespace["get_config"](name), variants, seeds, folder, record):
                return 75
            print(f"{name}, {count} seed(s)\n{(folder / 'table.md').read_text()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
