"""Experiments on byte networks: presets of a config file, trained with several seeds as lanes.

Each finished run adds a row to a record, a JSONL file; runs with a row are not trained again, and
the page and its figures are made from rows alone.
"""

import argparse
import dataclasses
import math
import runpy
from collections.abc import Callable
from pathlib import Path

import jax

from flaxae.config import Config, config_hash, copy_config
from flaxae.config.locate import user_path
from flaxae.config.ranges import SEEDS, ranged
from flaxae.data import byte_corpus
from flaxae.data.byte_corpus import ByteCorpus
from flaxae.errors import ConfigError
from flaxae.machine.compile_cache import keep_programs
from flaxae.models.byte_lm import baselines
from flaxae.models.byte_lm.baselines import Row as Baseline
from flaxae.models.byte_lm.grid import GridConfig, count_parameters
from flaxae.sweep.record import Row, complete_groups, read_record

QUICK = "**QUICK: few steps and a part of the held-out splits, to test the program.**"
COLUMNS = ("dev", "test", "parameters")  # numbers that each row must have


@dataclasses.dataclass
class Found:
    """The rows of an experiment.

    Attributes:
        corpus: the data of all rows.
        baselines: bits per byte of compressors and n-grams on the test split.
        rows: rows of each preset, by seed.
        note: remark on quick runs, "" for full ones.
    """

    corpus: ByteCorpus
    baselines: list[Baseline]
    rows: dict[str, list[Row]]
    note: str

    def numbers(self, preset: str, name: str) -> list[float]:
        """Return a number of each row of a preset, without runs that were not finite."""
        values = [row["numbers"].get(name) for row in self.rows.get(preset, [])]
        return [value for value in values if value is not None]

    def differences(self, preset: str, other: str) -> list[float]:
        """Return the test split's bits per byte, minus those of another preset, seed by seed."""
        test = {row["seed"]: row["numbers"]["test"] for row in self.rows.get(other, [])}
        pairs = [
            (row["numbers"]["test"], test.get(row["seed"])) for row in self.rows.get(preset, [])
        ]
        return [a - b for a, b in pairs if a is not None and b is not None]

    def beside_baselines(self, titles: dict[str, str]) -> str:
        """Return a table of presets' means beside the baselines on the test split, the best last.

        Args:
            titles: name in the table of each preset.
        """
        rows = list(self.baselines)
        for preset, title in titles.items():
            if test := self.numbers(preset, "test"):
                rows.append(Baseline(f"**{title}**", True, sum(test) / len(test), 0.0))
        rows.sort(key=lambda row: -row.bits_per_byte)
        return baselines.table(rows) + "".join(f"\n\n{note}" for note in baselines.missing())


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        module: the module of its command.
        file: config file with get_config(preset), quick(config) and PRESETS.
        description: of the command.
        page: writes the figures into a folder, and returns the text of report.md.
    """

    module: str
    file: str
    description: str
    page: Callable[[Found, Path], str]


def main(experiment: Experiment, argv: list[str]) -> int:
    """Run an experiment's command; return its exit code."""
    args = _parse(experiment, argv)
    file = user_path(experiment.file)
    if not file.is_file():
        raise ConfigError(f"there is no {experiment.file} here: run this in flaxae's repository")
    space = runpy.run_path(str(file))
    names = [name for name in space["PRESETS"] if not args.only or name in args.only]
    if unknown := set(args.only) - set(names):
        known = ", ".join(space["PRESETS"])
        raise ConfigError(f"--only: unknown {', '.join(sorted(unknown))}; there are {known}")
    workdir = user_path(args.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    record = user_path(args.record) if args.record else workdir / "runs.jsonl"
    keep_programs(workdir / "programs")
    configs = {name: space["get_config"](name) for name in space["PRESETS"]}
    for config in configs.values():
        config.data.path = args.path
        if args.quick:
            space["quick"](config)
    seeds = args.seeds or ((0, 1) if args.quick else (0, 1, 2))
    groups = [
        [(name, copy_config(configs[name], {"seed": seed})) for seed in seeds] for name in names
    ]
    corpus = byte_corpus.read(args.path)
    _require_same(record, corpus)
    cache = user_path(configs[names[0]].data.cache)
    kept = cache / f"bytes-{corpus.manifest.fingerprint}-test.json"
    others = [*baselines.measure(corpus, "test", record=kept)]

    def measure(configs: list[Config], keys: list[str]) -> list[Row] | None:
        return train_lanes(configs, workdir / "-".join(key[:6] for key in keys))

    def write(_: list[Row]) -> None:
        found = Found(corpus, others, _current(record, configs), QUICK if args.quick else "")
        (workdir / "report.md").write_text(experiment.page(found, workdir))

    if not complete_groups(record, groups, measure, columns=COLUMNS, after=write):
        return 75
    print((workdir / "report.md").read_text())
    print(f"written to {workdir / 'report.md'}")
    return 0


def train_lanes(configs: list[Config], workdir: Path) -> list[Row] | None:
    """Train runs that differ in the seed only, as lanes of one program.

    Args:
        configs: config of each lane.
        workdir: folder of the runs.

    Returns:
        The data's fingerprint and the numbers of each run: its parameters, the bits per byte of
        each split in `eval.splits` under the split's name, and the test split's other metrics; None
        where they are not finite. None if a signal interrupted the training.
    """
    from flaxae.training.loop import run

    result = run(configs[0], workdir, lanes=[{"seed": config.seed} for config in configs])
    if result.status not in ("done", "already_done"):
        return None
    task = configs[0].task
    if isinstance(task, GridConfig):  # without gates that the network has but does not use
        size = count_parameters(task)
    else:
        size = sum(leaf.size for leaf in jax.tree.leaves(result.state["params"])) // len(configs)
    rows = []
    for lane, config in enumerate(configs):
        metrics = {name: values[lane] for name, values in result.metrics.items()}
        numbers = {split: metrics[f"{split}/bits_per_byte"] for split in config.eval.splits}
        for name, value in metrics.items():
            split, _, rest = name.partition("/")
            if split == "test" and rest not in ("loss", "bits_per_byte"):
                numbers[rest] = value
        rounded = {k: round(v, 6) if math.isfinite(v) else None for k, v in numbers.items()}
        rounded["parameters"] = size
        rows.append({"data": result.task.corpus.manifest.fingerprint, "numbers": rounded})
    return rows


def _current(record: Path, configs: dict[str, Config]) -> dict[str, list[Row]]:
    """Return the rows that belong to today's configs, by preset and in order of their seeds."""
    found: dict[str, list[Row]] = {}
    for row in read_record(record, COLUMNS).values():
        config = configs.get(row["variant"])
        if config and row["run"] == config_hash(copy_config(config, {"seed": row["seed"]})):
            found.setdefault(row["variant"], []).append(row)
    return {name: sorted(rows, key=lambda row: row["seed"]) for name, rows in found.items()}


def _require_same(record: Path, corpus: ByteCorpus) -> None:
    """Raise ConfigError if a record has numbers of other data."""
    now = corpus.manifest.fingerprint
    others = {row["data"] for row in read_record(record, COLUMNS).values()} - {now}
    if others:
        raise ConfigError(
            f"{record} has numbers of data {', '.join(sorted(others))}, but those of this run are "
            f"{now} ({corpus.manifest.name}): numbers of different data do not compare. Name "
            "another file with --record"
        )


def _parse(experiment: Experiment, argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {experiment.module}",
        description=f"{experiment.description} The same command continues after an interruption.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the runs and of report.md")
    parser.add_argument("--path", default="", help="data: a file or a folder, see data.path")
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
        help="default: 0 1 2; quick: 0 1",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="presets to run")
    return parser.parse_args(argv[1:])
