"""Collected states on disk: Arrow files that `datasets` opens, written whole or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from flaxae.errors import ConfigError, require

COLUMNS = ("key", "dataset", "group", "split", "label", "lie", "polarity")
BASE = "base"


class Part:
    """The rows of one side (the base, or an adapter) of some prompts.

    Args:
        columns: the names in COLUMNS, and "p" and "cov" -> values of each row.
        states: hook -> (N, L, D), float32.
        side: "base", or the hash of the adapter.
    """

    def __init__(
        self, columns: dict[str, Any], states: dict[str, Float[np.ndarray, "N L D"]], side: str
    ):
        self.columns, self.states, self.side = columns, states, side

    def write(self, path: Path, key: str, layers: Sequence[int]) -> None:
        """Write an Arrow file.

        Args:
            path: the file; its folder is created.
            key: hash of what the rows depend on.
            layers: of the states.
        """
        arrays = {name: pa.array(values) for name, values in self.columns.items()}
        arrays["adapter"] = pa.array([self.side] * len(self.columns["key"]))
        for hook, x in self.states.items():
            rows = np.ascontiguousarray(x.reshape(len(x), -1), np.float32)
            flat = pa.array(rows.reshape(-1))
            arrays[hook] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        names = ",".join(map(str, layers))
        table = pa.table(arrays).replace_schema_metadata({"key": key, "layers": names})
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
        os.replace(temporary, path)


def read_part(path: Path, key: str, hooks: Sequence[str]) -> Part:
    """Read a file of `Part.write`.

    Args:
        path: the file.
        key: the hash that it must have.
        hooks: hooks of its states.

    Raises:
        ConfigError: if it is broken, or of other states.
    """
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            table = stream.read_all()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: not a complete file ({error}): remove it") from None
    metadata = table.schema.metadata or {}
    require(
        metadata.get(b"key", b"").decode() == key,
        f"{path}: states of another model, hook, layer or prompt: name another folder",
    )
    layers = len(metadata[b"layers"].decode().split(","))
    rows = table.num_rows
    states = {}
    for hook in hooks:
        flat = table[hook].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        states[hook] = flat.reshape(rows, layers, -1)
    names = (*COLUMNS, "p", "cov")
    columns = {name: np.asarray(table[name].to_pylist()) for name in names}
    return Part(columns, states, str(table["adapter"][0]))
