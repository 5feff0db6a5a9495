"""Objectives side by side on equal terms: `python -m flaxae.models.t5_vae.baselines`.

Trains every variant of configs/t5_vae/baselines.py with several seeds, evaluates each run, and
writes one table a data set. Runs are named by the hash of their config: what is done is not done
again. A row of numbers a run stands in `runs.jsonl`, or in the file that `--record` names: that
file alone is enough to go on with on another machine.
"""

import argparse
import functools
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import Config, config_hash, copy_config
from flaxae.errors import ConfigError
from flaxae.measures import stats
from flaxae.training.report import REPORT

CONFIG = "configs/t5_vae/baselines.py"
# Heading -> where a report has the number; all of the dev split.
COLUMNS: dict[str, tuple[str, ...]] = {
    "exact match": ("splits", "dev", "exact_match"),
    "token accuracy": ("splits", "dev", "token_accuracy"),
    "BLEU": ("splits", "dev", "bleu"),
    "shuffled gap (nats a token)": ("likelihood", "shuffled_gap", "value"),
    "MMD² / null p95": ("latent", "mmd_with_noise_over_null"),
    "active units": ("latent", "active_units"),
    "samples valid": ("samples", "validity"),
    "distinct-2": ("samples", "distinct_2"),
    "path ratio": ("interpolation", "slerp", "path_ratio", "value"),
    "distinct / steps": ("interpolation", "slerp", "distinct", "value"),
}


def look_up(report: Any, path: tuple[str, ...]) -> float | None:
    """A report's number; None where it has none (validity of English)."""
    for name in path:
        if not isinstance(report, dict) or name not in report:
            return None
        report = report[name]
    return None if report is None else float(report)


def cell(values: list[float | None]) -> str:
    """Mean over the seeds and, of several, Student's 95 % interval."""
    numbers = [v for v in values if v is not None]
    if not numbers:
        return "n/a"
    largest = max(map(abs, numbers))
    form = "{:.0f}" if largest >= 100 else "{:.1f}" if largest >= 10 else "{:.3f}"
    found = stats.t_interval(numbers)
    mean, low, high = (form.format(x) for x in (found.value, found.low, found.high))
    return f"{mean} [{low}, {high}]" if len(numbers) > 1 else mean


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a variant, in the order in which they first come.

    Args:
        rows: of a record, all of one data set.
    """
    lines = [
        "| objective | seeds | " + " | ".join(COLUMNS) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for name in dict.fromkeys(row["variant"] for row in rows):
        of_variant = [row["numbers"] for row in rows if row["variant"] == name]
        cells = [cell([numbers[column] for numbers in of_variant]) for column in COLUMNS]
        lines.append(f"| {name.replace('_', ' ')} | {len(of_variant)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read_record(path: Path) -> dict[str, dict[str, Any]]:
    """Hash of a config -> its run's row; a last line that was cut off is left out.

    Raises:
        ConfigError: the file is something else.
    """
    lines = path.read_text().split("\n") if path.exists() else [""]
    rows = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            _ = row["variant"], [row["numbers"][column] for column in COLUMNS]
            rows[row["run"]] = row
        except (KeyError, TypeError, ValueError):
            raise ConfigError(
                f"{path}, line {number}, is no row of a record of baselines; "
                "name another file with --record, or delete it to train all runs again"
            ) from None
    return rows


@functools.cache
def running_commit() -> str:
    """The commit that this process began with: a checkout may move on during hours of runs."""
    from flaxae.storage.workdir import versions

    return versions()["commit"]


def add_to_record(path: Path, row: dict[str, Any]) -> None:
    """Appends a row, after whole lines only."""
    text = path.read_text() if path.exists() else ""
    path.write_text(text[: text.rfind("\n") + 1] + json.dumps(row) + "\n")


def train_and_evaluate(config: Config, workdir: Path) -> dict[str, Any] | None:
    """A run's report, made where it is not there yet; None: the run was interrupted."""
    from flaxae.models.t5_vae.evaluation import Sizes, report
    from flaxae.training.load import load
    from flaxae.training.loop import run

    path = workdir / REPORT / "report.json"
    if not path.exists():
        if run(config, workdir).status not in ("done", "already_done"):
            return None
        sizes = Sizes(samples=500, codes=2000, pairs=50, factors=500, draws=300)
        report(load(workdir), str(path.parent), sizes)
    return json.loads(path.read_text())


def run_all(
    config: Config,
    variants: dict[str, dict[str, Any]],
    seeds: list[int],
    outdir: Path,
    record: Path,
) -> bool:
    """Trains and evaluates all variants, the seeds one after the other; rewrites the table often.

    Args:
        config: what all runs share.
        variants: name -> overrides.
        seeds: of every variant.
        outdir: a folder a run comes here, and the table.
        record: a row a run; runs that stand in it are not trained.

    Returns:
        False where a signal ended it: the same call goes on.
    """
    commit, done, rows = running_commit(), read_record(record), []
    for seed in seeds:
        for name, overrides in variants.items():
            one = copy_config(config, {**overrides, "seed": seed})
            if (key := config_hash(one)) not in done:
                found = train_and_evaluate(one, outdir / key)
                if found is None:
                    return False
                numbers = {column: look_up(found, path) for column, path in COLUMNS.items()}
                done[key] = {"run": key, "dataset": config.data.name, "variant": name, "seed": seed}
                done[key] |= {"numbers": numbers, "commit": commit}
                add_to_record(record, done[key])
            rows.append(done[key])
            (outdir / "table.md").write_text(table(rows))
    return True


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.t5_vae.baselines",
        description="Objectives side by side, several seeds, one table a data set.",
    )
    parser.add_argument("--workdir", required=True, help="a folder a data set, a folder a run")
    parser.add_argument("--datasets", nargs="+", default=["python_lines", "docstrings"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--config", default=CONFIG, help="defines get_config and VARIANTS")
    parser.add_argument("--variants", nargs="+", default=[], help="default: all")
    parser.add_argument(
        "--record", metavar="FILE", help="rows of finished runs; default: WORKDIR/runs.jsonl"
    )
    args = parser.parse_args(argv[1:])
    if not Path(args.config).is_file():
        raise ConfigError(f"--config={args.config}: no such file; run this in flaxae's own folder")
    namespace = runpy.run_path(args.config)
    if missing := {"VARIANTS", "get_config"} - set(namespace):
        raise ConfigError(f"--config={args.config} defines no {' and no '.join(sorted(missing))}")
    variants = namespace["VARIANTS"]
    if unknown := set(args.variants) - set(variants):
        raise ConfigError(f"--variants: no {', '.join(unknown)}; there are {', '.join(variants)}")
    variants = {k: v for k, v in variants.items() if not args.variants or k in args.variants}
    record = Path(args.record or Path(args.workdir) / "runs.jsonl")
    # A few seeds of all data sets before more of one: an unfinished table is a fair one.
    for count in range(1, len(args.seeds) + 1):
        for name in args.datasets:
            folder = Path(args.workdir) / name
            folder.mkdir(parents=True, exist_ok=True)
            seeds = args.seeds[:count]
            if not run_all(namespace["get_config"](name), variants, seeds, folder, record):
                return 75
            print(f"{name}, {count} seed(s)\n{(folder / 'table.md').read_text()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
