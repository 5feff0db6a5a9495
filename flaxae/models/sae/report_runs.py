"""The runs of the report on dictionaries: cache, pilots, training, measures, rows of the record."""

import runpy
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from flaxae.activations.cache import StateCache, Tap
from flaxae.activations.stream import StateReader, fill, progress
from flaxae.config import Config, config_hash, copy_config
from flaxae.data.text import digest
from flaxae.errors import ConfigError, require
from flaxae.measures.stats import finite
from flaxae.models.sae import report_page, report_search, states
from flaxae.models.sae.report_measures import Evaluator
from flaxae.storage.paths import write_text
from flaxae.sweep import sweep
from flaxae.sweep.record import Row, add_to_record, complete, read_record, running_commit
from flaxae.training.loop import run

PARETO = "configs/sae/pareto.py"
COLUMNS = ("l0", "fvu")
TITLE = "Dictionaries of SmolLM2-135M"
HOOKS = ("resid_out", "mlp_in")  # hooks whose states are probed
PROBED, SETS = "cities_k16", "sets_k16"  # measures of dictionaries


class Interrupted(Exception):
    """A signal interrupted a run; the same command continues."""


class Report:
    """The runs of a report.

    Args:
        space: the names of configs/sae/report.py.
        level: name of the report's size.
        workdir: folder of the cache, the runs and the page.
        record: file of the rows.
        sets: whether latents are probed on the data sets of sae-probes.
    """

    def __init__(
        self, space: dict[str, Any], level: str, workdir: Path, record: Path, *, sets: bool = True
    ):
        self.space, self.level_name, self.workdir, self.record = space, level, workdir, record
        self.level = space["LEVELS"][level]
        self.sets = self.level.sets if sets else ()
        self.cache = workdir / "cache"

    def config(self, name: str, overrides: dict[str, Any] | None = None) -> Config:
        """Return the config of a run, without the folder of the cache, which is not hashed."""
        config = self.space["get_config"](f"{name},{self.level_name}")
        return copy_config(config, overrides or {})

    def fill(self) -> None:
        """Compute the states that the cache lacks, all hooks in one pass of the model."""
        task, source = self.task, self.task.source
        taps = [Tap(hook, layer) for hook, layer in self.space["TAPS"]]
        reader = StateReader(source.model, taps, task.data_config.model_rows)
        mark = states.mark_of(source, task.options)
        for split in (*self.space["SPLITS"], "train"):
            cache = StateCache(self.cache, mark, task.data(split).rows)
            todo = [n for n in range(cache.num_shards) if cache.missing(taps, n)]
            fill(cache, reader, todo, progress(f"states of {split}", len(todo)))

    @cached_property
    def task(self) -> Any:
        """A task with the model and the texts of all runs."""
        config = self.config("topk")
        return config.task.make(config)

    @cached_property
    def data(self) -> str:
        """Name of the corpus, and a hash of its texts for training and evaluation."""
        splits, data = self.task.splits, self.task.data_config
        texts = [text for name in ("train", *self.space["SPLITS"]) for text in splits[name]]
        return f"{data.path or data.name} {digest(texts)}"

    @cached_property
    def evaluator(self) -> Evaluator:
        """Texts and passes of the model that all runs are measured with."""
        level, folder = self.level, self.workdir / "shared"
        splits = self.space["SPLITS"]
        return Evaluator(folder, level.facts, self.sets, level.examples, HOOKS, splits)

    def row(self, config: Config, overrides: dict[str, Any], numbers: Any, began: float) -> Row:
        """Return the entries of a row beside its name."""
        return {
            "level": self.level_name,
            "data": self.data,
            "tokens": config.steps * config.data.batch_size,
            "overrides": overrides,
            "numbers": _rounded(finite(numbers)),
            "seconds": round(time.monotonic() - began),
        }

    def one(
        self, name: str, overrides: dict[str, Any], seed: int, final: bool = True
    ) -> dict[str, Any]:
        """Train and measure a run, unless it has a row; return its numbers.

        Args:
            name: the variant.
            overrides: its setting.
            seed: its seed.
            final: whether all measures are made also if L0 is outside of its range.

        Raises:
            Interrupted: if a signal interrupted it.
        """
        config = self.config(name, {**overrides, "seed": seed})
        target, tolerance = self.space["TARGET"], self.space["TOLERANCE"]
        in_range = None if final else (target - tolerance, target + tolerance)

        def measure(config: Config, key: str) -> Row | None:
            began, folder = time.monotonic(), self.workdir / key
            result = run(self.cached(config), folder)
            if not result.finished:
                return None
            numbers = self.evaluator.measure(folder, in_range)
            return self.row(config, overrides, numbers, began)

        key = config_hash(config)
        row = read_record(self.record, COLUMNS).get(key)
        if (
            row is not None
            and self.sets
            and PROBED in row["numbers"]
            and SETS not in row["numbers"]
        ):
            found = measure(config, key)  # it was measured without the data sets
            if found is None:
                raise Interrupted
            add_to_record(self.record, row | {"numbers": found["numbers"]})
        if not complete(self.record, [(name, config)], measure, columns=COLUMNS):
            raise Interrupted
        self.write()
        return read_record(self.record, COLUMNS)[key]["numbers"]

    def cached(self, config: Config) -> Config:
        """Return a config that reads the cache."""
        return copy_config(config, {"data.state_cache": str(self.cache)})

    def tuned(self, name: str) -> dict[str, Any]:
        """Return the setting at which an architecture has the wanted L0; train its first seed."""
        if name not in self.space["TUNED"]:
            self.one(name, {}, 0)
            return {}
        field, slope = self.space["TUNED"][name]
        target, tolerance = self.space["TARGET"], self.space["TOLERANCE"]
        value = target
        if slope is None:
            value, slope = report_search.solution(self.pilots(name, field), target)
        for left in reversed(range(self.level.tries)):
            numbers = self.one(name, {field: value}, 0, final=not left)
            l0 = numbers["chosen_l0"]
            if abs(l0 - target) <= tolerance or not left:
                break
            value = report_search.corrected(value, l0, target, slope)
        return {field: value}

    def pilots(self, name: str, field: str) -> list[report_search.Point]:
        """Return weight and L0 of short runs around the wanted L0; rounds train as lanes."""
        length = self.space["of_length"](self.level.pilot)
        fields = {"eval.num_batches": 4, "save.every": self.level.pilot}
        base = self.config(name, {**length, **fields, "eval.splits": self.space["SPLITS"][:1]})
        points: list[report_search.Point] = []
        target, first = self.space["TARGET"], self.space["RANGE"]
        while values := report_search.next_values(points, first, target):
            configs = [copy_config(base, {field: value}) for value in values]
            numbers = self.lanes(f"{name}{report_page.PILOT}", base, configs, field, values)
            points += [(x, n["l0"]) for x, n in zip(values, numbers, strict=True)]
        require(
            any(l0 is not None for _, l0 in points),
            f"{name}: every pilot diverged. Leave it out by --only; after a change, remove the "
            f"rows of {name}{report_page.PILOT} from {self.record}",
        )
        return points

    def lanes(
        self, variant: str, base: Config, configs: list[Config], field: str, values: list[float]
    ) -> list[dict[str, Any]]:
        """Train configs that differ in one field as lanes of one program; return their numbers.

        Raises:
            Interrupted: if a signal interrupted them.
        """
        keys = [config_hash(config) for config in configs]
        rows = read_record(self.record, COLUMNS)
        if not all(key in rows for key in keys):
            began, folder = time.monotonic(), self.workdir / "lanes" / "-".join(keys)[:80]
            found = sweep(self.cached(base), [{field: x} for x in values], folder)
            if any(row["status"] in ("sigterm", "sigint") for row in found):
                raise Interrupted
            for key, config, value, lane in zip(keys, configs, values, found, strict=True):
                start = f"{base.eval.splits[0]}/"
                numbers = {n.removeprefix(start): x for n, x in lane.items() if start in n}
                if lane["status"] == "failed":  # it diverged: a row without numbers
                    numbers = dict.fromkeys(COLUMNS)
                elif lane["status"] != "done":
                    raise ConfigError(f"{variant}, {field}={value}: the run {lane['status']}")
                row = {"run": key, "variant": variant, "seed": 0, "commit": running_commit()}
                rows[key] = row | self.row(config, {field: value}, numbers, began)
                add_to_record(self.record, rows[key])
            shutil.rmtree(folder)
            self.write()
        return [rows[key]["numbers"] for key in keys]

    def pareto(self) -> None:
        """Train the lanes of configs/sae/pareto.py, in one program on one stream."""
        space, level = runpy.run_path(PARETO), self.level
        fields = {**self.space["of_length"](level.pareto), **level.overrides}
        base = copy_config(
            space["get_config"]("topk"),
            {
                **fields,
                "eval.num_batches": 0,
                "eval.every": 0,
                "eval.splits": self.space["SPLITS"][1:],
            },
        )
        field, values = space["FIELDS"]["topk"]
        configs = [copy_config(base, {field: value}) for value in values]
        self.lanes(report_page.PARETO, base, configs, field, list(values))

    @property
    def codes(self) -> list[str]:
        """The runs of vq and fsq of this level."""
        return [name for name in self.space["CODES"] if name not in self.level.left_out]

    def rows(self) -> list[Row]:
        """Return the rows of this level, in order of their runs."""
        rows = read_record(self.record, COLUMNS).values()
        return [row for row in rows if row["level"] == self.level_name]

    def write(self) -> None:
        """Write the page."""
        space, rows = self.space, self.rows()
        tokens = self.level.steps * self.config("topk").data.batch_size
        title = f"{TITLE}: {tokens:,} tokens per run"
        goal = space["TARGET"], space["TOLERANCE"]
        text = report_page.page(rows, title, space["SPARSE"], space["OTHERS"], self.codes, goal)
        figure = next(iter(report_page.draw(rows, self.workdir)), None)
        if figure is not None:
            steps = self.level.pareto
            text += f"\n## L0 against FVU\n\nTop-k, {steps} steps.\n\n![Pareto]({figure.name})\n"
        write_text(self.workdir / "report.md", text)

    def run(self, only: list[str]) -> None:
        """Fill the cache, train and measure all runs, and write the page."""
        space = self.space
        _ = self.evaluator  # an error before the first run if a package with texts is missing
        self.fill()
        names = [*space["SPARSE"], *space["OTHERS"], *self.codes]
        settings = {name: self.tuned(name) for name in names if not only or name in only}
        if not only or report_page.PARETO in only:
            self.pareto()
        for seed in range(1, self.level.seeds):
            for name, setting in settings.items():
                if seed < space["SEEDS"].get(name, 1):
                    self.one(name, setting, seed)
        self.write()


def _rounded(numbers: Any) -> Any:
    """Return numbers of a tree with six digits."""
    if isinstance(numbers, dict):
        return {name: _rounded(x) for name, x in numbers.items()}
    return float(f"{numbers:.6g}") if isinstance(numbers, float) else numbers
