"""Directories that `transformers` opens, written from parameters."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from flaxae.config.locate import user_path
from flaxae.errors import require
from flaxae.machine import distributed
from flaxae.tree import path_name
from flaxae.weights.hf.directory import CONFIG, INDEX, SINGLE
from flaxae.weights.hf.table import Table


def write(
    directory: str | Path,
    config: dict[str, Any],
    table: Table,
    params: dict[str, Any],
    *,
    dtype: DTypeLike = jnp.float32,
    max_shard_size: int = 5 * 10**9,
) -> None:
    """Write a directory that `transformers` opens; every process calls it, the main one writes.

    Args:
        directory: created if it does not exist; safetensors files written earlier are replaced.
        config: contents of config.json.
        table: the tensors of each parameter; aliases are not written.
        params: nested dict of arrays, with the paths of the table.
        dtype: dtype of the stored tensors.
        max_shard_size: bytes per file; larger models are written as shards with an index.

    Raises:
        ConfigError: if the table is of other parameters or has fused tensors, or the directory is
            a run's workdir.
    """
    leaves = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
    table.check_paths(set(leaves))
    fused = any(w.rows[1] > 1 for w in table.weights.values())
    require(not fused, "fused tensors can be read, but not written")
    directory, dtype = user_path(directory), np.dtype(dtype)
    require(
        not (directory / "latest").exists(),
        f"{directory} is a run's workdir, whose config.json would be replaced: name another",
    )
    shards = _plan(table, leaves, dtype, max_shard_size)
    if distributed.is_main():
        directory.mkdir(parents=True, exist_ok=True)
        for old in (*directory.glob("model*.safetensors"), directory / INDEX):
            old.unlink(missing_ok=True)
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    files = [SINGLE] if len(shards) == 1 else files
    values = _values(table, leaves, dtype)
    for file, names in zip(files, shards, strict=True):
        shard = dict(next(values) for _ in names)
        if distributed.is_main():
            save_file(shard, directory / file, metadata={"format": "pt"})
    if distributed.is_main():
        if len(files) > 1:
            file_of = {n: f for f, names in zip(files, shards, strict=True) for n in names}
            size = sum(math.prod(x.shape) for x in leaves.values()) * dtype.itemsize
            _dump(directory / INDEX, {"metadata": {"total_size": size}, "weight_map": file_of})
        _dump(directory / CONFIG, config)
    distributed.sync(f"wrote {directory}")


def _plan(table: Table, leaves: dict[str, Any], dtype: np.dtype, limit: int) -> list[list[str]]:
    """Return the names of each file's tensors, in the order of `_values`."""
    shards, room = [[]], limit
    for path, weight in table.weights.items():
        size = math.prod(leaves[path].shape) * dtype.itemsize // len(weight.names)
        for name in weight.names:
            if size > room and shards[-1]:
                shards.append([])
                room = limit
            shards[-1].append(name)
            room -= size
    return shards


def _values(
    table: Table, leaves: dict[str, Any], dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors, with one of our parameters on the host at a time."""
    for path, weight in table.weights.items():
        value = leaves[path]
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            value = multihost_utils.process_allgather(value, tiled=True)
        value = np.asarray(value)
        for layer, name in enumerate(weight.names):
            one = value[layer] if weight.stacked else value
            one = one.T if weight.transpose else one
            yield name, np.ascontiguousarray(one, dtype)


def _dump(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
