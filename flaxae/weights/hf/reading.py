"""Parameters from tensors; each process reads only the slices that its devices hold."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxae.errors import require
from flaxae.tree import path_name
from flaxae.weights.hf import names as names_lib
from flaxae.weights.hf import quantised
from flaxae.weights.hf.table import Table, Weight
from flaxae.weights.hf.tensors import TensorSource


def read_params(
    tensors: TensorSource,
    table: Table,
    shapes: dict[str, Any],
    shardings: dict[str, Any] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> dict[str, Any]:
    """Read parameters and place them on devices.

    Args:
        tensors: tensors of a directory or file.
        table: the tensors of each parameter.
        shapes: nested dict of ShapeDtypeStruct, with the paths of the table.
        shardings: nested dict of NamedSharding, with the same paths; None: the default device.
        dtype: dtype of the parameters; tensors of any other float type are converted.

    Returns:
        Nested dict of arrays.

    Raises:
        ConfigError: if a tensor is missing, unread, of another shape or not of floats, or aliases
            differ.
    """
    table = _with_aliases(tensors, table)
    _check(tensors, table, shapes)
    if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: one, shapes)

    def make(path: tuple, shape: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        weight, made = table.weights[path_name(path)], {}

        def part(index: Any) -> np.ndarray:
            spans = tuple(range(*s.indices(n)) for s, n in zip(index, shape.shape, strict=True))
            if spans not in made:  # devices that hold the same slice share one read
                made[spans] = _read_part(tensors, weight, spans, np.dtype(dtype))
            return made[spans]

        return jax.make_array_from_callback(shape.shape, sharding, part)

    return jax.tree_util.tree_map_with_path(make, shapes, shardings)


def _read_part(
    tensors: TensorSource, weight: Weight, spans: tuple[range, ...], dtype: np.dtype
) -> np.ndarray:
    """Return the part of a parameter that `spans`, one range per axis, selects."""
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


def _with_aliases(tensors: TensorSource, table: Table) -> Table:
    """Return the table with names that the files contain; equal names must have equal values."""
    weights = {}
    for path, weight in table.weights.items():
        present = [name for name in weight.aliases if name in tensors.names]
        if present and weight.names[0] not in tensors.names:
            weight = dataclasses.replace(weight, names=(present.pop(0),))
        for alias in present:
            require(
                tensors.same(weight.names[0], alias),
                f"{tensors.directory}: {alias} should be the same weight as {weight.names[0]}, "
                "but its values differ",
            )
        weights[path] = weight
    return dataclasses.replace(table, weights=weights)


def _check(tensors: TensorSource, table: Table, shapes: dict[str, Any]) -> None:
    """Raise ConfigError unless the files contain exactly the tensors of the table."""
    ours = {path_name(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(shapes)}
    table.check_paths(set(ours))
    read, lacking, types, wrong = set(table.unused), {}, {}, []
    for path, weight in table.weights.items():
        read |= {*weight.names, *weight.aliases}
        shape = ours[path][1:] if weight.stacked else ours[path]
        shape = shape[::-1] if weight.transpose else shape
        shape = (shape[0] * weight.rows[1], *shape[1:]) if shape else shape
        lacking |= {name: path for name in weight.names if name not in tensors.names}
        if weight.stacked and len(weight.names) != ours[path][0]:
            wrong.append(f"{path} has {ours[path][0]} layers, the table {len(weight.names)}")
        for name in sorted(set(weight.names) & tensors.names):
            types[name] = tensors.dtype(name)
            if tensors.shape(name) != shape:
                wrong.append(f"{name} is {tensors.shape(name)}, the config says {shape}")
    quantised.check_types(tensors.directory, types)
    unexpected = sorted(tensors.names - read)
    problems = names_lib.problems(
        [f"{name} is missing (it fills {path})" for name, path in lacking.items()],
        [f"{name} is not a weight of this model" for name in unexpected],
        wrong,
    )
    hints = (quantised.hint(unexpected), names_lib.hint(unexpected, lacking))
    problems += [text for text in hints if text]
    require(not problems, f"{tensors.directory}: {'; '.join(problems)}")
