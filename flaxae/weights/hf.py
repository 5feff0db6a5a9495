"""Hugging Face directories <-> parameters, through one table a model; strict both ways.

A directory holds config.json and model.safetensors, or model.safetensors.index.json with the
shards it names. A parameter is read by the slices that this process's devices hold.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flaxae.errors import ConfigError, require
from flaxae.machine import distributed
from flaxae.tree import path_name

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
_HUB_ID = re.compile(r"^[\w][\w.-]*(/[\w][\w.-]*)?$")
_ROWS = 4096  # of a tensor at once, where two are compared


@dataclasses.dataclass(frozen=True)
class Weight:
    """Where one of our parameters lies.

    Attributes:
        names: the tensors it is made of: one, or one a layer.
        stacked: our first axis is the layers.
        transpose: theirs is (out, in), ours (in, out).
        aliases: further names of the same values, of which a directory may hold any; where
            `names` is missing, the first alias that is there stands for it.
        rows: (i, n): theirs is n of ours, one after another on their first axis, and ours the
            i-th (queries, keys and values in one tensor).
    """

    names: tuple[str, ...]
    stacked: bool = False
    transpose: bool = False
    aliases: tuple[str, ...] = ()
    rows: tuple[int, int] = (0, 1)


@dataclasses.dataclass(frozen=True)
class Table:
    """Our parameters' paths ("a/b/c") -> weights; `unused` is published but means nothing."""

    weights: dict[str, Weight]
    unused: tuple[str, ...] = ()


def resolve(source: str | Path) -> Path:
    """The directory of a local path or of a Hub id.

    Raises:
        ConfigError: no such directory, or the Hub does not give it.
    """
    if Path(source).is_dir():
        return Path(source)
    name = str(source)
    require(
        bool(_HUB_ID.match(name)) and not Path(source).exists(),
        f"{name}: no such directory, and no Hub id (owner/name)",
    )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS)))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{name}: no such directory, and the Hub does not give it ({reason}); where there is a "
            f"network, run `hf download {name} --local-dir DIR` and give DIR"
        ) from None


def read_config(directory: Path) -> dict[str, Any]:
    """What a directory's config.json holds."""
    path = directory / CONFIG
    require(path.is_file(), f"{directory}: no {CONFIG}")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    require(isinstance(data, dict), f"{path}: not a JSON object")
    return data


class Tensors:
    """The tensors of a directory's safetensors files, read by slices.

    Args:
        directory: a local directory.

    Raises:
        ConfigError: there is none, only pickles, or a file is broken or not what the index says.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._slices: dict[str, Any] = {}
        if (directory / SINGLE).is_file():
            self._open(directory / SINGLE)
            return
        if not (directory / INDEX).is_file():
            raise ConfigError(self._no_weights())
        files = read_json(directory / INDEX).get("weight_map", {})
        for file in sorted(set(files.values())):
            require(Path(file).name == file, f"{directory / INDEX}: {file!r} is no file name")
            require((directory / file).is_file(), f"{directory}: {file}, named in {INDEX}, is gone")
            named = {name for name, where in files.items() if where == file}
            wrong = sorted(named ^ self._open(directory / file))
            require(not wrong, f"{directory / file}: {INDEX} and the file disagree on {wrong[:5]}")

    def _open(self, path: Path) -> set[str]:
        try:
            file = safe_open(path, framework="numpy")
            new = {name: file.get_slice(name) for name in file.keys()}
        except SafetensorError as error:
            raise ConfigError(f"{path}: not a whole safetensors file ({error})") from None
        self._slices |= new
        return set(new)

    def _no_weights(self) -> str:
        pickles = sorted(path.name for kind in PICKLES for path in self.directory.glob(kind))
        if not pickles:
            return f"{self.directory}: neither {SINGLE} nor {INDEX}"
        return (
            f"{self.directory}: only {', '.join(pickles[:3])}, which is not opened (a pickle can "
            "run code); convert it where PyTorch is installed: "
            "AutoModelForSeq2SeqLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )

    @property
    def names(self) -> set[str]:
        return set(self._slices)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slices[name].get_shape())

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """A slice of a tensor, in its stored dtype; nothing else of it is read."""
        return self._slices[name][index if index else ...]

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors are equal; part after part, so that neither is ever held whole."""
        if self.shape(one) != self.shape(other):
            return False
        rows = self.shape(one)[0]
        parts = [(slice(i, min(i + _ROWS, rows)),) for i in range(0, rows, _ROWS)]
        return all(np.array_equal(self.read(one, p), self.read(other, p)) for p in parts)


def read_params(
    tensors: Tensors,
    table: Table,
    shapes: dict[str, Any],
    shardings: dict[str, Any] | None = None,
    dtype: Any = jnp.float32,
) -> dict[str, Any]:
    """Parameters from a directory, each placed as it is read.

    Args:
        tensors: of the directory.
        table: what lies where.
        shapes: nested dict of ShapeDtypeStruct, the paths of the table.
        shardings: the same of NamedSharding; None: the default device.
        dtype: of the parameters; tensors of any other float type are converted.

    Raises:
        ConfigError: a tensor is missing, unread or of another shape, or aliases differ.
    """
    table = _present(tensors, table)
    _check(tensors, table, shapes)
    if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: one, shapes)

    def make(path: tuple, shape: Any, sharding: Any) -> jax.Array:
        weight, made = table.weights[path_name(path)], {}

        def part(index: tuple[slice, ...]) -> np.ndarray:
            spans = tuple(range(*s.indices(n)) for s, n in zip(index, shape.shape, strict=True))
            if spans not in made:  # devices that hold the same slice share one reading
                made[spans] = _part(tensors, weight, spans, np.dtype(dtype))
            return made[spans]

        return jax.make_array_from_callback(shape.shape, sharding, part)  # pyright: ignore

    return jax.tree_util.tree_map_with_path(make, shapes, shardings)


def _part(tensors: Tensors, weight: Weight, spans: tuple[range, ...], dtype: Any) -> np.ndarray:
    out = np.empty([len(s) for s in spans], dtype)
    layers, inner = (spans[0], spans[1:]) if weight.stacked else (range(1), spans)
    index = tuple(slice(s.start, s.stop) for s in inner)
    index = index[::-1] if weight.transpose else index
    if weight.rows[1] > 1:
        first = tensors.shape(weight.names[0])[0] // weight.rows[1] * weight.rows[0]
        index = (slice(first + index[0].start, first + index[0].stop), *index[1:])
    for place, layer in enumerate(layers):
        value = tensors.read(weight.names[layer], index)
        value = value.T if weight.transpose else value
        out[place if weight.stacked else ...] = value  # converts as it copies
    return out


def _present(tensors: Tensors, table: Table) -> Table:
    """The table with aliases settled: those that are there must equal what they stand beside."""
    weights = {}
    for path, weight in table.weights.items():
        there = [name for name in weight.aliases if name in tensors.names]
        if there and weight.names[0] not in tensors.names:
            weight = dataclasses.replace(weight, names=(there.pop(0),))
        for alias in there:
            require(
                tensors.same(weight.names[0], alias),
                f"{tensors.directory}: {alias} should be the same weight as {weight.names[0]}, "
                "and its values differ",
            )
        weights[path] = weight
    return dataclasses.replace(table, weights=weights)


def _check(tensors: Tensors, table: Table, shapes: dict[str, Any]) -> None:
    ours = {path_name(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(shapes)}
    _same_paths(table, set(ours))
    read, problems = set(table.unused), []
    for path, weight in table.weights.items():
        read |= {*weight.names, *weight.aliases}
        shape = ours[path][1:] if weight.stacked else ours[path]
        shape = shape[::-1] if weight.transpose else shape
        shape = (shape[0] * weight.rows[1], *shape[1:]) if shape else shape
        missing = [name for name in weight.names if name not in tensors.names]
        problems += [f"{name} is missing (it fills {path})" for name in missing]
        if weight.stacked and len(weight.names) != ours[path][0]:
            problems.append(f"{path} has {ours[path][0]} layers, the table {len(weight.names)}")
        for name in sorted(set(weight.names) & tensors.names):
            if tensors.shape(name) != shape:
                problems.append(f"{name} is {tensors.shape(name)}, the config says {shape}")
    problems += [f"{name} is not a weight of this model" for name in sorted(tensors.names - read)]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ConfigError(f"{tensors.directory}: {'; '.join(problems[:8])}{more}")


def _same_paths(table: Table, paths: set[str]) -> None:
    wrong = sorted(paths ^ set(table.weights))
    require(not wrong, f"the table and the parameters differ in {', '.join(wrong[:8])}")


def write(
    directory: str | Path,
    config: dict[str, Any],
    table: Table,
    params: dict[str, Any],
    *,
    dtype: Any = jnp.float32,
    max_shard_size: int = 5 * 10**9,
) -> None:
    """Writes a directory that `transformers` opens; every process calls it, the main one writes.

    Args:
        directory: made if it is not there; safetensors files of an earlier writing are replaced.
        config: what config.json is to hold.
        table: what lies where; aliases are not written.
        params: nested dict of arrays, the paths of the table.
        dtype: that tensors are stored in.
        max_shard_size: bytes; where all do not fit one file, shards and an index are written.
    """
    leaves = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
    _same_paths(table, set(leaves))
    require(all(w.rows[1] == 1 for w in table.weights.values()), "fused tensors are only read")
    directory, dtype = Path(directory), np.dtype(dtype)
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
            where = {n: f for f, names in zip(files, shards, strict=True) for n in names}
            size = sum(math.prod(x.shape) for x in leaves.values()) * dtype.itemsize
            _dump(directory / INDEX, {"metadata": {"total_size": size}, "weight_map": where})
        _dump(directory / CONFIG, config)
    distributed.sync(f"wrote {directory}")


def _plan(table: Table, leaves: dict[str, Any], dtype: Any, limit: int) -> list[list[str]]:
    """The names of each file's tensors, in the order of `_values`."""
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


def _values(table: Table, leaves: dict[str, Any], dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors, one of our parameters on the host at a time."""
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
