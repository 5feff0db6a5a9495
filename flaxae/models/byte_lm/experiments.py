"""Runs of an experiment as rows of a record, with settings that are chosen on the dev split.

Runs that differ in traced fields train as lanes of one program. Each variant is trained with every
setting and one seed; the best setting then gets the other seeds. The seeds of a variant with a
single setting train together.
"""

import argparse
import dataclasses
import itertools
import runpy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flaxae.config import Config, config_hash, copy_config
from flaxae.config.locate import locate, user_path
from flaxae.errors import ConfigError
from flaxae.sweep.groups import group_by_shape
from flaxae.sweep.record import Row, add_to_record, read_record, running_commit
from flaxae.sweep.runs import sweep
from flaxae.training.hparams import make_hparams
from flaxae.training.load import load

DEV, TEST = "dev/bits_per_byte", "test/bits_per_byte"
PATH = "data.path"
QUICK = "QUICK: few steps of few variants; the numbers mean nothing."

Overrides = dict[str, Any]  # dotted field -> value
Measure = Callable[[Path], dict[str, Any]]  # workdir of a finished run -> further numbers


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of a table.

    Attributes:
        overrides: its config.
        candidates: overrides of which the best ones are chosen.
        seeds: number of seeds of the best setting.
        frozen: whether a seed also draws the parts that are never trained.
    """

    overrides: Overrides
    candidates: tuple[Overrides, ...] = ({},)
    seeds: int = 1
    frozen: bool = False

    def settings(self) -> list[Overrides]:
        """Return the overrides of every candidate."""
        return [self.overrides | one for one in self.candidates]

    def run(self, setting: Overrides, seed: int) -> Overrides:
        """Return the overrides of a run with a setting and a seed."""
        frozen = {"frozen_seed": seed} if self.frozen and seed else {}
        return {**setting, **frozen, "seed": seed}


def grid(**fields: Sequence[Any]) -> tuple[Overrides, ...]:
    """Return all combinations of the values of fields.

    Args:
        fields: values by field, with "__" in place of the dot.
    """
    names = [name.replace("__", ".") for name in fields]
    points = itertools.product(*fields.values())
    return tuple(dict(zip(names, point, strict=True)) for point in points)


class Experiment:
    """The variants of a base config, and the rows that a record has of them.

    Args:
        base: the config that all runs share.
        variants: by name.
        record: the file of rows.
        score: number of a row that is minimised when a setting is chosen.
    """

    def __init__(
        self,
        base: Config,
        variants: dict[str, Variant],
        record: Path,
        score: Callable[[Row], float] = lambda row: row["numbers"][DEV],
    ):
        self.base, self.variants, self.record, self.score = base, variants, record, score

    def train(self, workdir: Path, measure: Measure | None = None) -> bool:
        """Train what the record lacks, and add its rows.

        Args:
            workdir: folder of the runs.
            measure: further numbers of each run; None: only the metrics of the training.

        Returns:
            False if a signal interrupted it; the same call then continues.
        """
        first = [
            (name, v.run(one, seed))
            for name, v in self.variants.items()
            for one in v.settings()
            for seed in range(v.seeds if len(v.candidates) == 1 else 1)
        ]
        if not self._complete(first, workdir, measure):
            return False
        more = [
            (name, v.run(self.best_setting(name), seed))
            for name, v in self.variants.items()
            for seed in range(1, v.seeds)
        ]
        return self._complete(more, workdir, measure)

    def rows(self, name: str) -> list[Row]:
        """Return the rows of a variant's best setting, by seed."""
        done = read_record(self.record)
        best, variant = self.best_setting(name), self.variants[name]
        keys = [self.key(variant.run(best, seed)) for seed in range(variant.seeds)]
        return [done[key] for key in keys if key in done]

    def measured(self, name: str) -> list[tuple[Overrides, Row]]:
        """Return the settings of a variant that have a row, with the row of seed 0."""
        done = read_record(self.record)
        variant = self.variants[name]
        keyed = [(one, self.key(variant.run(one, 0))) for one in variant.settings()]
        return [(one, done[key]) for one, key in keyed if key in done]

    def best_setting(self, name: str) -> Overrides:
        """Return the setting of a variant with the best score; the first if it has no row."""
        measured = self.measured(name)
        if not measured:
            return self.variants[name].settings()[0]
        return min(measured, key=lambda pair: self.score(pair[1]))[0]

    def config(self, setting: Overrides, seed: int) -> Config:
        """Return the config of a setting with a seed."""
        return copy_config(self.base, {**setting, "seed": seed})

    def key(self, overrides: Overrides) -> str:
        """Return the hash of a run's config."""
        return config_hash(copy_config(self.base, overrides))

    def _complete(
        self, runs: Iterable[tuple[str, Overrides]], workdir: Path, measure: Measure | None
    ) -> bool:
        done = read_record(self.record)
        missing = {
            key: (name, overrides)
            for name, overrides in runs
            if (key := self.key(overrides)) not in done
        }
        if not missing:
            return True
        data = self._fingerprints([overrides for _, overrides in missing.values()], done)
        keys, commit = list(missing), running_commit()
        for group in group_by_shape(self.base, [overrides for _, overrides in missing.values()]):
            found = sweep(self.base, [missing[keys[i]][1] for i in group], workdir)
            for i, row in zip(group, found, strict=True):
                if row["status"] in ("sigterm", "sigint"):
                    return False
                numbers = {k: v for k, v in row.items() if k.startswith(("dev/", "test/"))} or {
                    DEV: float("inf"),
                    TEST: float("inf"),
                }  # it was not finite
                if measure is not None and row["status"] == "done":
                    numbers |= measure(workdir / keys[i])
                name, overrides = missing[keys[i]]
                add_to_record(
                    self.record,
                    {
                        "run": keys[i],
                        "variant": name,
                        "seed": overrides["seed"],
                        "commit": commit,
                        "data": data[self._path(overrides)],
                        "overrides": overrides,
                        "numbers": numbers,
                    },
                )
        return True

    def _path(self, overrides: Overrides) -> str:
        return overrides.get(PATH, getattr(self.base.data, "path", ""))

    def _fingerprints(self, runs: Iterable[Overrides], done: dict[str, Row]) -> dict[str, str]:
        """Return the fingerprint of each path of data; raise ConfigError if it is not the rows'."""
        found = {}
        for path in {self._path(overrides) for overrides in runs}:
            config = copy_config(self.base, {PATH: path})
            found[path] = config.task.make(config).corpus.manifest.fingerprint
        for key, row in done.items():
            if not row.get("data"):
                raise ConfigError(f"{self.record}: the row of run {key} does not name its data")
            path = self._path(row["overrides"])
            if row["data"] != found.get(path, row["data"]):
                raise ConfigError(
                    f"{self.record} has numbers of data {row['data']}, and data.path={path!r} is "
                    f"{found[path]}: numbers of different data do not compare; name another "
                    "--record"
                )
        return found


def pairs(rows: Iterable[Row], others: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Return the rows of two variants in pairs of equal seeds."""
    by_seed = {row["seed"]: row for row in others}
    return [(row, by_seed[row["seed"]]) for row in rows if row["seed"] in by_seed]


def trained(workdir: Path) -> tuple[Any, dict[str, Any]]:
    """Return the network of a finished run, and the values of its traced fields."""
    run = load(workdir)
    return run.model, make_hparams(run.task, [run.config], lanes=False)


def parse(argv: Sequence[str], prog: str, description: str) -> argparse.Namespace:
    """Return the options of a report: workdir and record as paths, quick.

    Args:
        argv: the command line without the program.
        prog: the command.
        description: its description.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--workdir", required=True, help="folder of the runs and of the report")
    parser.add_argument("--quick", action="store_true", help="few steps of few variants")
    parser.add_argument(
        "--record", metavar="FILE", help="rows of finished runs; default: WORKDIR/runs.jsonl"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="variants to run")
    args = parser.parse_args(argv)
    args.workdir = user_path(args.workdir)
    args.workdir.mkdir(parents=True, exist_ok=True)
    args.record = user_path(args.record) if args.record else args.workdir / "runs.jsonl"
    return args


def read_space(file: str) -> dict[str, Any]:
    """Return what the config file of an experiment defines.

    Raises:
        ConfigError: if it does not exist.
    """
    if (path := locate(file)) is None:
        raise ConfigError(f"there is no {file} here: run this in flaxae's repository")
    return runpy.run_path(str(path))


def chosen(variants: dict[str, Variant], only: Sequence[str]) -> dict[str, Variant]:
    """Return the variants of an option `--only`; all if it is empty.

    Raises:
        ConfigError: if a name is unknown.
    """
    if unknown := set(only) - set(variants):
        raise ConfigError(
            f"--only: unknown {', '.join(sorted(unknown))}; there are {', '.join(variants)}"
        )
    return {k: v for k, v in variants.items() if not only or k in only}
