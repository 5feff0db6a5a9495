"""Tables from local files as regression problems: each prompt consists of points of one table.

A file is a CSV or .parquet file of numbers whose last column is the target. Columns are
standardised over the table. If a table has more than d columns, each prompt takes d at random;
fewer are padded with 0.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from flaxae.config.locate import user_path
from flaxae.data.tables import load_local
from flaxae.data.text import digest
from flaxae.errors import ConfigError

SUFFIXES = (".csv", ".parquet")


class Tables(NamedTuple):
    """All tables of a folder as one array, padded to the largest table.

    Attributes:
        values: standardised values; the target is column 0.
        rows: number of rows of each table.
        columns: number of columns of each table without the target.
        fingerprint: hash of names and values.
    """

    values: Float[np.ndarray, "tables rows columns"]
    rows: Int[np.ndarray, " tables"]
    columns: Int[np.ndarray, " tables"]
    fingerprint: str


def read(path: str, points: int) -> Tables:
    """Read a file or a folder of files.

    Args:
        path: the file or folder.
        points: points per prompt, the least number of rows of a table.

    Returns:
        The tables.

    Raises:
        ConfigError: if there is no file, or a table has too few rows or values that are not
            numbers.
    """
    location = user_path(path)
    if location.is_file():
        files = [location]
    else:
        files = sorted(p for p in location.glob("*") if p.suffix in SUFFIXES)
    if not path or not files:
        raise ConfigError(
            f"task.tables={path!r}: no {' or '.join(SUFFIXES)} file found; name a file or a folder"
        )
    tables = [_read_table(file, points) for file in files]
    most = max(len(t) for t in tables), max(t.shape[1] for t in tables)
    values = np.zeros((len(tables), *most), np.float32)
    for i, table in enumerate(tables):
        values[i, : len(table), : table.shape[1]] = table
    rows, columns = (np.asarray([t.shape[i] - i for t in tables], np.int32) for i in range(2))
    names = [f.name for f in files]
    return Tables(values, rows, columns, digest([*names, values.tobytes().hex()]))


def _read_table(file: Path, points: int) -> Float[np.ndarray, "rows columns"]:
    """Read one table, standardise it, and move the target to column 0."""
    table = load_local(str(file))
    try:
        columns = [np.asarray(table[name][:], np.float64) for name in table.column_names]
    except (TypeError, ValueError) as e:
        raise ConfigError(f"task.tables: {file} has values that are not numbers: {e}") from None
    whole = np.stack(columns, axis=1)
    if whole.shape[1] < 2 or len(whole) < points or not np.isfinite(whole).all():
        raise ConfigError(
            f"task.tables: {file} has {len(whole)} rows x {whole.shape[1]} columns; it needs at "
            f"least 2 columns, task.model.points={points} rows, and no missing values"
        )
    spread = whole.std(0)
    whole = (whole - whole.mean(0)) / np.where(spread > 0, spread, 1.0)
    return np.roll(whole, 1, axis=1).astype(np.float32)


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
