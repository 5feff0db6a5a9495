"""A grid of overrides of one config, run through the same loop: `python -m flaxae.sweep`.

Runs are grouped by shape: those that differ only in what may be traced (hparams) train as lanes of
one program. A run's folder is named by the hash of its config, so that sweeps share runs and
resume. Without --grid the config file says what to run: `get_runs(preset)` gives the overrides of
each run, and `finish(rows, workdir, outdir)`, where there is one, makes the sweep's own tables and
figures; preset is what follows the file's name and a ":".
"""

import argparse
import ast
import csv
import io
import itertools
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flaxae import paths, train_step
from flaxae import workdir as workdir_lib
from flaxae.checkpoint import CheckpointError
from flaxae.config import Config, ConfigError, config_hash, copy_config
from flaxae.train_loop import NonFiniteError, Result, run


def expand(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations: {"a": [1, 2], "b": [3]} -> [{"a": 1, "b": 3}, {"a": 2, "b": 3}]."""
    for name, values in grid.items():
        if not values:
            raise ConfigError(f"the sweep's field {name!r} has no values")
    return [dict(zip(grid, v, strict=True)) for v in itertools.product(*grid.values())]


def group_by_shape(config: Config, runs: list[dict[str, Any]]) -> list[list[int]]:
    """Indices of the runs that one program can train as lanes, in order of appearance.

    Runs that differ in what the task names in `lanes_apart` are not put together: a vmapped program
    takes as long as its slowest lane.
    """
    task = config.task.make(config)
    traced = set((train_step.LOOP_HPARAMS | task.hparams).values()) - set(task.lanes_apart)
    groups: dict[str, list[int]] = {}
    for i, overrides in enumerate(runs):
        shape = {k: v for k, v in overrides.items() if k not in traced}
        groups.setdefault(json.dumps(shape, sort_keys=True, default=str), []).append(i)
    return list(groups.values())


def sweep(
    config: Config, runs: list[dict[str, Any]], outdir: str | Path, lanes: bool = True,
    tables: str | Path = "",
) -> list[dict[str, Any]]:  # fmt: skip
    """Trains all runs that are not done, each distinct one once; writes table.csv and table.md.

    Args:
        config: the base.
        runs: overrides of each run (dotted field -> value).
        outdir: one folder a run, named by the hash of its config.
        lanes: train runs of one shape as lanes of one program.
        tables: the folder of the tables; "": outdir.
    Returns:
        A row a run: its hash, overrides, status ("done", "failed", "sigterm", ...) and metrics.
    """
    outdir = paths.as_workdir(outdir)
    tables = paths.as_workdir(tables) if tables else outdir
    configs = [copy_config(config, overrides) for overrides in runs]
    names = [config_hash(c) for c in configs]
    groups = group_by_shape(config, runs) if lanes else [[i] for i in range(len(runs))]
    rows: list[dict[str, Any]] = [
        {"run": name, **overrides, "status": "not run"}
        for name, overrides in zip(names, runs, strict=True)
    ]
    for group in groups:
        missing = {names[i]: i for i in group if not _record(outdir / names[i])}
        todo = sorted(missing.values())  # two overrides may mean one run
        status = _run_group(config, configs, runs, names, todo, outdir, rows) if todo else "done"
        for i in set(group) - set(todo):
            rows[i] |= _record(outdir / names[i])
        write_table(rows, tables)
        if status in ("sigterm", "sigint"):
            break
    return rows


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _run_group(
    config: Config, configs: list[Config], runs: list[dict[str, Any]], names: list[str],
    todo: list[int], outdir: Path, rows: list[dict[str, Any]],
) -> str:  # fmt: skip
    """Trains one group, as lanes where it has several runs; fills in its rows."""
    single = len(todo) == 1
    together = outdir / "groups" / config_hash(config) / "-".join(names[i][:6] for i in todo)[:80]
    try:
        if single:
            result = run(configs[todo[0]], outdir / names[todo[0]])
        else:
            task = config.task.make(config)
            traced = set((train_step.LOOP_HPARAMS | task.hparams).values())
            shape = {k: v for k, v in runs[todo[0]].items() if k not in traced}
            overrides = [{k: v for k, v in runs[i].items() if k in traced} for i in todo]
            result = run(copy_config(config, shape), together, lanes=overrides)
    except NonFiniteError as e:
        result = Result({}, {}, "failed")
        print(f"failed: {e}", file=sys.stderr)
    for lane, i in enumerate(todo):
        folder = outdir / names[i]
        metrics = {k: v if single else v[lane] for k, v in result.metrics.items()}
        status = result.status
        if not single:
            source = together / "lanes" / f"{lane:02d}"
            status = "failed" if (source / "FAILED").exists() else status
            if status in ("done", "already_done"):
                paths.copy_folder(source, folder)
        status = "done" if status == "already_done" else status
        rows[i] |= {"status": status, **metrics}
        if status in ("done", "failed"):
            folder.mkdir(parents=True, exist_ok=True)
            workdir_lib.write_json(folder / "result.json", {"status": status, **metrics})
    return result.status


class Plan(NamedTuple):
    """What a sweep runs.

    Attributes:
        runs: overrides of each run.
        folder: of its tables, in the workdir: sweeps that share runs keep theirs apart.
        finish: the config file's own end of a sweep, or None.
    """

    runs: list[dict[str, Any]]
    folder: str
    finish: Callable[[list[dict[str, Any]], Path, Path], str] | None

    @classmethod
    def of(cls, config: str, grid: list[str]) -> "Plan":
        """The grid's runs, or else those of `get_runs` in a config file ("FILE[:PRESET]")."""
        if grid:
            return cls(expand(parse_grid(grid)), "", None)
        file, _, preset = config.partition(":")
        names = runpy.run_path(file)
        if "get_runs" not in names:
            raise ConfigError(
                "--grid is missing: name at least one field and its values "
                f"({file} has no get_runs that would say what to run)"
            )
        return cls(names["get_runs"](preset), f"tables/{Path(file).stem}", names.get("finish"))


def write_table(rows: list[dict[str, Any]], outdir: Path) -> None:
    """Writes table.csv and table.md: a row a run, a column each override and metric."""
    outdir.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(rows)
    (outdir / "table.csv").write_bytes(table.getvalue().encode())

    def show(x: Any) -> str:
        return f"{x:.5g}" if isinstance(x, float) else str(x)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(show(row.get(c, "")) for c in columns) + " |" for row in rows]
    (outdir / "table.md").write_text("\n".join(lines) + "\n")


def parse_grid(items: list[str]) -> dict[str, list[Any]]:
    """["optim.lr=1e-3,3e-3", "task.kernel=imq,rbf"] -> field -> values."""
    grid = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not text:
            raise ConfigError(f"--grid {item!r} is not FIELD=VALUE,VALUE,...")
        grid[name] = [_literal(v) for v in text.split(",")]
    return grid


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


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
    args, rest = parser.parse_known_args(argv)
    from flaxae import flags

    try:
        config, workdir = flags.parse(
            ["sweep", f"--config={args.config}", f"--workdir={args.workdir}", *rest]
        )[:2]
        plan = Plan.of(args.config, args.grid)
        tables = paths.as_path(workdir) / plan.folder
        rows = sweep(config, plan.runs, workdir, not args.no_lanes, tables)
        bad = [row["status"] for row in rows if row["status"] != "done"]
        text = (tables / "table.md").read_text()
        if plan.finish is not None and not bad:
            text = plan.finish(rows, paths.as_path(workdir), tables)
    except (ConfigError, CheckpointError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(text)
    return 75 if "sigterm" in bad else 130 if "sigint" in bad else 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
