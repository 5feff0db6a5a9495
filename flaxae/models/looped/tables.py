"""Tables from local files as regression problems: each prompt is points of one table.

A file is a CSV or a .parquet of numbers whose last column is the target. Columns are standardised
over the table; where it has more than d, each prompt takes d at random; fewer are padded with 0.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from flaxae.data.tables import load_local
from flaxae.data.text import digest
from flaxae.errors import ConfigError

SUFFIXES = (".csv", ".parquet")


class Tables(NamedTuple):
    """All tables of a folder as one array, rows beyond a table's own unused.

    Attributes:
        values: standardised; the target is column 0.
        rows, columns: of each table, its target not counted among the columns.
        fingerprint: of names and values.
    """

    values: Float[np.ndarray, "tables rows columns"]
    rows: Int[np.ndarray, " tables"]
    columns: Int[np.ndarray, " tables"]
    fingerprint: str


def read(path: str, points: int) -> Tables:
    """Reads a file or a folder of files.

    Args:
        path: the file or folder.
        points: a prompt's: a table needs as many rows.

    Raises:
        ConfigError: nothing there, or a table that is no table of numbers.
    """
    where = Path(path)
    files = [where] if where.is_file() else sorted(p for p in where.glob("*")
                                                   if p.suffix in SUFFIXES)  # fmt: skip
    if not path or not files:
        raise ConfigError(
            f"task.tables={path!r}: no {' or '.join(SUFFIXES)} files; name one, or a folder of them"
        )
    tables = [_one(file, points) for file in files]
    most = max(len(t) for t in tables), max(t.shape[1] for t in tables)
    values = np.zeros((len(tables), *most), np.float32)
    for i, table in enumerate(tables):
        values[i, : len(table), : table.shape[1]] = table
    rows, columns = (np.asarray([t.shape[i] - i for t in tables], np.int32) for i in range(2))
    names = [f.name for f in files]
    return Tables(values, rows, columns, digest([*names, values.tobytes().hex()]))


def _one(file: Path, points: int) -> np.ndarray:
    table = load_local(str(file))
    try:
        columns = [np.asarray(table[name][:], np.float64) for name in table.column_names]
    except (TypeError, ValueError) as e:
        raise ConfigError(f"task.tables: {file} is no table of numbers: {e}") from None
    whole = np.stack(columns, axis=1)
    if whole.shape[1] < 2 or len(whole) < points or not np.isfinite(whole).all():
        raise ConfigError(
            f"task.tables: {file} is {len(whole)} rows x {whole.shape[1]} columns; it needs a "
            f"target beside an input, task.model.points={points} rows, and no gaps"
        )
    spread = whole.std(0)
    whole = (whole - whole.mean(0)) / np.where(spread > 0, spread, 1.0)
    return np.roll(whole, 1, axis=1).astype(np.float32)


class TableSource:
    """Batches of prompts, each of points of one table, none twice: {"xs", "ys"} as numpy arrays."""

    def __init__(
        self, tables: Tables, rows: int, points: int, dims: int, seed: int, num_batches: int | None
    ):
        self.tables, self.seed, self.num_batches = tables, seed, num_batches
        self.shape = (rows, points, dims)
        sizes = "x".join(map(str, self.shape))
        self.fingerprint = f"tables-{tables.fingerprint}-{sizes}-{seed}-{num_batches}"

    @property
    def batch_spec(self) -> dict[str, Any]:
        rows, points, dims = self.shape
        shapes = {"xs": (rows, points, dims), "ys": (rows, points)}
        return {k: jax.ShapeDtypeStruct(v, np.dtype(np.float32)) for k, v in shapes.items()}

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rows, points, dims = self.shape
        # Evaluation draws other prompts than training, also of the same tables.
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
