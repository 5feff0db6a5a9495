"""The runs of a sweep, from a grid or from its config file, and its tables."""

import ast
import csv
import io
import itertools
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flaxae.config.flags import UNREADABLE
from flaxae.config.locate import locate, split_preset
from flaxae.errors import ConfigError


class Plan(NamedTuple):
    """The runs of a sweep.

    Attributes:
        runs: overrides of each run.
        folder: the folder of the tables in the workdir: sweeps that share runs have separate ones.
        finish: the config file's function that ends the sweep, or None.
    """

    runs: list[dict[str, Any]]
    folder: str
    finish: Callable[[list[dict[str, Any]], Path, Path], str] | None

    @classmethod
    def of(cls, config: str, grid: list[str]) -> "Plan":
        """Return the plan of a grid, or else of `get_runs` in a config file ("FILE[:PRESET]").

        Raises:
            ConfigError: if there is no such file, or no grid and no `get_runs`, or the grid is not
                well formed.
        """
        if grid:
            return cls(expand(parse_grid(grid)), "", None)
        file, _, preset = split_preset(config)
        located = locate(file)
        if located is None:
            raise ConfigError(f"--config={config}: there is no file {file}")
        names = runpy.run_path(str(located))
        if "get_runs" not in names:
            raise ConfigError(
                "--grid is missing: name at least one field and its values "
                f"({file} defines no get_runs, which would name the runs)"
            )
        return cls(names["get_runs"](preset), f"tables/{Path(file).stem}", names.get("finish"))


def expand(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return all combinations: {"a": [1, 2], "b": [3]} -> [{"a": 1, "b": 3}, {"a": 2, "b": 3}]."""
    for name, values in grid.items():
        if not values:
            raise ConfigError(f"the sweep's field {name!r} has no values")
    return [dict(zip(grid, v, strict=True)) for v in itertools.product(*grid.values())]


def parse_grid(items: list[str]) -> dict[str, list[Any]]:
    """Parse ["optim.lr=1e-3,3e-3", "task.kernel=imq,rbf"] into field -> values."""
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
    except UNREADABLE:
        return text


def write_table(rows: list[dict[str, Any]], outdir: Path) -> None:
    """Write table.csv and table.md: one row per run, one column per override and metric."""
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
