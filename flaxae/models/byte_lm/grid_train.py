"""Training of the grid's cells: lanes of shared programs, in processes side by side.

Each finished cell adds a row to a record; cells with a row are not trained again.
"""

import json
import math
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxae.config import Config, config_hash, copy_config
from flaxae.data import byte_corpus
from flaxae.errors import ConfigError, NonFiniteError, require
from flaxae.models.byte_lm.figures import curve
from flaxae.models.byte_lm.grid import ChunkedGridConfig, GridConfig
from flaxae.models.byte_lm.grid_cells import Cell
from flaxae.models.byte_lm.rates import Timed
from flaxae.storage.metrics_file import Writer
from flaxae.storage.workdir import write_json
from flaxae.sweep import CODES, group_by_shape
from flaxae.sweep.record import Row, add_to_record, read_record, running_commit
from flaxae.sweep.workers import Call, Exit, run_all
from flaxae.training.loop import run

# Variants of a record's rows.
EQUAL, ORIGINAL, RATE, WINDOW = "cell", "original", "rate", "window"
ORIGINAL_BYTES = 2**18
NUMBERS = "numbers.json"


class Run(NamedTuple):
    """A cell that is trained by one of the schedules.

    Attributes:
        variant: EQUAL, ORIGINAL or WINDOW.
        cell: the cell.
        overrides: overrides of the base config.
    """

    variant: str
    cell: Cell
    overrides: dict[str, Any]


def equal_runs(cells: Sequence[Cell]) -> list[Run]:
    """Return the runs that update every `task.update` bytes of a stream, whatever k."""
    return [Run(EQUAL, cell, cell.overrides) for cell in cells]


def window_runs(cells: Sequence[Cell]) -> list[Run]:
    """Return runs like `equal_runs`; their base config has a `WindowGridConfig`."""
    return [Run(WINDOW, cell, cell.overrides) for cell in cells]


def original_runs(base: Config, cells: Sequence[Cell], size: int = ORIGINAL_BYTES) -> list[Run]:
    """Return the runs that update every k bytes of a stream.

    Args:
        base: the base config.
        cells: the cells.
        size: bytes of training, a multiple of bytes per call for each k.
    """
    out = []
    for cell in cells:
        steps = size // (base.data.batch_size * cell.bptt)
        periods = {"steps": steps, "log.every": steps, "eval.every": steps, "save.every": steps}
        out.append(Run(ORIGINAL, cell, {**cell.overrides, "task.update": cell.bptt, **periods}))
    return out


def train(
    base: Config,
    runs: Sequence[Run],
    record: Path,
    workdir: Path,
    jobs: int,
    after: Callable[[], Any] = lambda: None,
    test_batches: int = 0,
) -> str | None:
    """Train the runs that a record lacks, and add their rows.

    The folder of a program, with the checkpoints of its lanes, is removed when its rows are in the
    record: those of the whole grid would need several GB.

    Args:
        base: the config that they override.
        runs: the runs.
        record: the file of rows.
        workdir: folder of the programs' runs and logs.
        jobs: number of programs that train side by side on the CPU.
        after: called after each program.
        test_batches: batches of the evaluation on the test split; 0: the whole split.

    Returns:
        None, or "sigterm" or "sigint" after a signal: the same call then continues.

    Raises:
        ConfigError: if a program failed.
    """
    done, fingerprint = read_record(record), byte_corpus.read(data_path(base)).manifest.fingerprint
    require_same(done.values(), fingerprint, record)
    missing = [x for x in runs if config_hash(copy_config(base, x.overrides)) not in done]
    groups = [[missing[i] for i in g] for g in group_by_shape(base, [x.overrides for x in missing])]
    groups.sort(key=lambda group: -sum(x.cell.cost for x in group))
    calls, failed = [], []
    for group in groups:
        names = [config_hash(copy_config(base, x.overrides)) for x in group]
        folder = workdir / "-".join(name[:6] for name in names)[:80]
        title = f"{group[0].variant}, {len(group)} lanes of {group[0].cell}"
        args = (base, [x.overrides for x in group], folder, test_batches)
        calls.append(Call(title, train_program, args, workdir / "logs" / f"{names[0]}.log"))
    costs = [sum(x.cell.cost for x in group) for group in groups]
    commit, began, ended = running_commit(), time.monotonic(), []

    def on_exit(end: Exit) -> None:
        call, group = calls[end.index], groups[end.index]
        ended.append(costs[end.index])
        left = (time.monotonic() - began) * (sum(costs) / sum(ended) - 1) / 60
        print(f"{call.name}: {end.seconds / 60:.1f} min; about {left:.0f} min left", flush=True)
        if end.code:
            failed.extend([call] * (end.code not in (*CODES.values(), -signal.SIGTERM)))
            return
        folder: Path = call.args[2]
        for x, numbers in zip(group, json.loads((folder / NUMBERS).read_text()), strict=True):
            config = copy_config(base, x.overrides)
            row = {"run": config_hash(config), "variant": x.variant, "seed": config.seed}
            row |= {"commit": commit, "data": fingerprint, "cell": str(x.cell), "numbers": numbers}
            add_to_record(record, row)
        shutil.rmtree(folder)
        after()

    stopped = run_all(calls, jobs, on_exit)
    if failed and not stopped:
        raise ConfigError(f"{failed[0].name} failed: see the end of {failed[0].log}")
    return stopped


def require_same(rows: Any, fingerprint: str, record: Path) -> None:
    """Raise ConfigError if a record has numbers of other data."""
    others = {row["data"] for row in rows} - {fingerprint}
    require(
        not others,
        f"{record} has numbers of data {', '.join(sorted(others))}, not of {fingerprint}, which are"
        " read now: numbers of different data do not compare. Name another file with --record",
    )


def data_path(config: Config) -> str:
    """Return `data.path`."""
    data: Any = config.data
    return data.path


def train_program(
    base: Config, lanes: list[dict[str, Any]], folder: Path, test_batches: int
) -> int:
    """Train runs of one program, evaluate them on the test split, and write their numbers.

    Args:
        base: the config.
        lanes: overrides of each run, equal but for what is traced.
        folder: folder of the runs; NUMBERS is written there.
        test_batches: batches of the evaluation on the test split; 0: the whole split.

    Returns:
        An exit code.
    """
    traced = {f"task.{name}" for name in type(base.task).traced}  # pyright: ignore[reportAttributeAccessIssue]
    config = copy_config(base, lanes[0])  # the first lane's: bptt must not be above update
    differing = [{k: v for k, v in one.items() if k in traced} for one in lanes]
    try:
        result = run(config, folder, lanes=differing)
        if result.status in CODES:
            return CODES[result.status]
        found = _during_training(config, folder, len(lanes))
        # Those on the dev split were short. The run is done, and only evaluated once more.
        last = {"eval.splits": ("test",), "eval.num_batches": test_batches}
        final = copy_config(config, last)
        result = run(final, folder, lanes=differing)
        if result.status in CODES:
            return CODES[result.status]
        bits = result.metrics["test/bits_per_byte"]
    except NonFiniteError:
        found, bits = [{"curve": []} for _ in lanes], [math.nan] * len(lanes)
    for lane, numbers in enumerate(found):
        ok = math.isfinite(bits[lane]) and not (folder / f"lanes/{lane:02d}/FAILED").exists()
        numbers["bits_per_byte"] = round(bits[lane], 6) if ok else None
    write_json(folder / NUMBERS, found)
    return 0


def _during_training(config: Config, folder: Path, lanes: int) -> list[dict[str, Any]]:
    """Return each run's learning curve, largest state and speed of all lanes together.

    They are read once: the evaluation on the test split replaces the last one of training.
    """
    file = folder / "curves.json"
    if file.exists():
        return json.loads(file.read_text())
    out = []
    for lane in range(lanes):
        rows = Writer(folder / f"lanes/{lane:02d}", config.log).rows()
        points = curve(folder / f"lanes/{lane:02d}", config)
        rates = [row["time/examples_per_second"] for row in rows if "time/goodput" in row]
        speed = statistics.median(rates) * lanes * config.task.update  # pyright: ignore[reportAttributeAccessIssue]
        states = [row["max_state"] for row in rows if row.get("max_state") is not None]
        numbers = {
            "curve": [(x, round(y, 6)) for x, y in points],
            "bytes_per_second": round(speed),
        }
        out.append(numbers | ({"max_state": round(max(states), 3)} if states else {}))
    write_json(file, out)
    return out


def as_task(base: Config, kind: type[GridConfig]) -> Config:
    """Return a config with another class of cells and the same update.

    Args:
        base: the config.
        kind: the class.
    """
    config, old = copy_config(base), base.task
    assert isinstance(old, GridConfig)
    config.task = kind(update=old.update)
    return config


def stopping(base: Config, cell: Cell) -> Config:
    """Return the config of a cell whose program really stops at k."""
    return copy_config(as_task(base, ChunkedGridConfig), cell.overrides)


def measure_rates(
    base: Config, cells: Sequence[Cell], record: Path, workdir: Path, seconds: float
) -> str | None:
    """Measure the training speed of programs that really stop at k, one at a time.

    The programs of a triple of k take turns. Same step and output gate are data: cells that differ
    in them have one speed.

    Args:
        base: the config that the cells override.
        cells: the cells.
        record: the file to which rows are added.
        workdir: folder of logs.
        seconds: time per program.

    Returns:
        None, or "sigterm" or "sigint" after a signal.

    Raises:
        ConfigError: if a measurement failed.
    """
    triples: dict[Cell, list[Cell]] = {}
    done = read_record(record)
    for cell in dict.fromkeys(rated(cell) for cell in cells):
        if config_hash(stopping(base, cell)) not in done:
            triples.setdefault(cell._replace(bptt=0), []).append(cell)
    fingerprint = byte_corpus.read(data_path(base)).manifest.fingerprint
    calls = [
        Call(
            f"speed of {len(group)} programs like {group[0]}",
            _rate_program,
            (base, group, record, fingerprint, seconds),
            workdir / "logs" / "rates.log",
        )
        for group in triples.values()
    ]
    codes: list[int] = []
    stopped = run_all(calls, 1, lambda end: codes.append(end.code))
    if any(codes) and not stopped:
        raise ConfigError(f"a measurement of speed failed: see the end of {calls[0].log}")
    return stopped


def rated(cell: Cell) -> Cell:
    """Return the cell by which the speed of a cell's program is recorded."""
    return cell._replace(same_step=True, output_gate=False)


def _rate_program(
    base: Config, cells: list[Cell], record: Path, fingerprint: str, seconds: float
) -> int:
    steps = [Timed(stopping(base, cell)) for cell in cells]
    speeds: list[list[float]] = [[] for _ in cells]
    for _ in range(3):
        for each, step in zip(speeds, steps, strict=True):
            each.append(step.bytes_per_second(seconds / 3))
    commit = running_commit()
    for cell, each in zip(cells, speeds, strict=True):
        config = stopping(base, cell)
        row: Row = {"run": config_hash(config), "variant": RATE, "seed": config.seed}
        row |= {"commit": commit, "data": fingerprint, "cell": str(cell)}
        add_to_record(
            record, row | {"numbers": {"bytes_per_second": round(statistics.median(each))}}
        )
    return 0
