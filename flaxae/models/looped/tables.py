"""Tables from local files as regression problems: each prompt consists of points of one table.

A file is a CSV, TSV or .parquet file of numbers whose last column is the target. A first line of
numbers is data, not a header. Columns are standardised over the table. If a table has more than d
columns, each prompt takes d at random; fewer are padded with 0.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from flaxae.config.locate import user_path
from flaxae.data.folders import list_files, named, split_of, unused_notes
from flaxae.data.local import load_files
from flaxae.data.text import digest, printable
from flaxae.errors import ConfigError

SUFFIXES = (".csv", ".tsv", ".parquet")
_BOOLEANS = {"true": 1.0, "false": 0.0}


class Tables(NamedTuple):
    """All tables of a folder as one array, padded to the largest table.

    Attributes:
        values: standardised values; the target is column 0.
        rows: number of rows of each table.
        columns: number of columns of each table without the target.
        fingerprint: hash of names and values.
        notes: remarks on headers and on files that are not used.
    """

    values: Float[np.ndarray, "tables rows columns"]
    rows: Int[np.ndarray, " tables"]
    columns: Int[np.ndarray, " tables"]
    fingerprint: str
    notes: Sequence[str] = ()


def read(path: str, points: int) -> Tables:
    """Read a file or a folder of files.

    Args:
        path: the file or folder.
        points: points per prompt, the least number of rows of a table.

    Returns:
        The tables.

    Raises:
        ConfigError: if there is no file, or a table has too few rows, or values that are not
            numbers or are missing.
    """
    location, notes = user_path(path), []
    files = [location] if path and location.is_file() else []
    if path and location.is_dir():
        listing = list_files(str(location), SUFFIXES)
        files = [location / name for name in listing.used]
        notes = unused_notes(path, listing)
        if held_out := [x for x in listing.used if split_of(x) in ("validation", "test")]:
            notes.append(
                f"{path}: {named(held_out)} are used like the other tables; tables that are only"
                " evaluated belong into a folder for task.held_out_tables"
            )
    if not files:
        raise ConfigError(
            f"task.tables={path!r}: no {' or '.join(SUFFIXES)} file found; name a file or a folder"
        )
    tables = []
    for file in files:
        table, more = _read_table(file, points)
        tables.append(table)
        notes += more
    most = max(len(t) for t in tables), max(t.shape[1] for t in tables)
    values = np.zeros((len(tables), *most), np.float32)
    for i, table in enumerate(tables):
        values[i, : len(table), : table.shape[1]] = table
    rows, columns = (np.asarray([t.shape[i] - i for t in tables], np.int32) for i in range(2))
    names = [f.name for f in files]
    fingerprint = digest([*names, values.tobytes().hex()])
    return Tables(values, rows, columns, fingerprint, list(map(printable, notes)))


def _read_table(file: Path, points: int) -> tuple[Float[np.ndarray, "rows columns"], list[str]]:
    """Read one table, standardise it, and move the target to column 0; return notes too."""
    table, notes = load_files([str(file)])
    columns = [_numbers(table[name][:], name, file) for name in table.column_names]
    whole = np.stack(columns, axis=1)
    if whole.shape[1] < 2 or len(whole) < points:
        raise ConfigError(
            f"task.tables: {file} has {len(whole)} rows x {whole.shape[1]} columns; it needs at "
            f"least 2 columns and task.model.points={points} rows"
        )
    spread = whole.std(0)
    whole = (whole - whole.mean(0)) / np.where(spread > 0, spread, 1.0)
    return np.roll(whole, 1, axis=1).astype(np.float32), notes


def _numbers(values: Sequence[Any], name: str, file: Path) -> Float[np.ndarray, " rows"]:
    """Return a column as numbers; raise ConfigError that names the first value that is none."""
    try:
        out = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        out = np.asarray([_number(x) for x in values], np.float64)
    if out.ndim > 1:
        raise ConfigError(f"task.tables: {file} has lists, not numbers, in column {name!r}")
    if not np.isfinite(out).all():
        row = int(np.flatnonzero(~np.isfinite(out))[0])
        raise ConfigError(
            f"task.tables: {file} has values that are not numbers or are missing: "
            f"{values[row]!r} in row {row + 1} of column {name!r}"
        )
    return out


def _number(value: Any) -> float:
    """Return a number or boolean, or NaN for another value."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return _BOOLEANS.get(str(value).strip().lower(), float("nan"))


class TableSource:
    """Batches of prompts {"xs", "ys"}, numpy arrays; a prompt has distinct points of one table."""

    def __init__(
        self, tables: Tables, rows: int, points: int, dims: int, seed: int, num_batches: int | None
    ):
        self.tables, self.seed, self.num_batches = tables, seed, num_batches
        self.shape = (rows, points, dims)
        sizes = "x".join(map(str, self.shape))
        self.fingerprint = f"tables-{tables.fingerprint}-{sizes}-{seed}-{num_batches}"

    @property
    def batch_spec(self) -> dict[str, Any]:
        """The shapes of a batch."""
        rows, points, dims = self.shape
        shapes = {"xs": (rows, points, dims), "ys": (rows, points)}
        return {k: jax.ShapeDtypeStruct(v, np.dtype(np.float32)) for k, v in shapes.items()}

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Return the batch of a step."""
        rows, points, dims = self.shape
        # Evaluation draws different prompts than training, even if the tables are the same.
        rng = np.random.default_rng([self.seed, step, self.num_batches or 0])
        out = {k: np.zeros(v.shape, np.float32) for k, v in self.batch_spec.items()}
        for row in range(rows):
            t = rng.integers(len(self.tables.values))
            chosen = rng.permutation(self.tables.rows[t])[:points]
            columns = 1 + rng.permutation(self.tables.columns[t])[:dims]
            table = self.tables.values[t][chosen]
            out["xs"][row, :, : len(columns)] = table[:, columns]
            out["ys"][row] = table[:, 0]
        return out
