"""The mesh, and the shardings of arrays on it.

`jax.jit` over a `Mesh` of axes `replica` (between slices), `fsdp` and `model` is the only
parallelism here (`pjit` is `jit` today, `pmap` is in maintenance mode).
"""

import math
import re
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxae.config import MeshConfig
from flaxae.errors import ConfigError
from flaxae.tree import path_name

AXES = ("replica", "fsdp", "model")
BATCH_AXES = ("replica", "fsdp")
MIN_SPLIT = 2**14  # elements; splitting smaller arrays costs more in messages than it saves


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """Build the mesh.

    Args:
        config: sizes of the axes; an axis of size 0 takes all remaining devices.
        devices: the devices; None: all devices of all processes.

    Raises:
        ConfigError: if the sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.replica, config.fsdp, config.model]
    named = math.prod(s for s in sizes if s)
    if 0 in sizes:
        if len(devices) % named:
            raise ConfigError(
                f"mesh: {len(devices)} devices cannot be divided by "
                f"{dict(zip(AXES, sizes, strict=True))}; change mesh.* to divide them"
            )
        sizes[sizes.index(0)] = len(devices) // named
    total = math.prod(sizes)
    if total > len(devices):
        raise ConfigError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs {total} devices, "
            f"there are {len(devices)}; lower mesh.replica, mesh.fsdp or mesh.model"
        )
    if total < len(devices) and jax.process_count() > 1:
        raise ConfigError(
            f"mesh of {total} devices must use all {len(devices)} of a multi-process run"
        )
    devices, types = devices[:total], (AxisType.Auto,) * 3
    slices = len({getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"})
    if slices < 2:
        return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)
    if sizes[0] % slices:
        raise ConfigError(
            f"mesh.replica={sizes[0]} is not divisible by the {slices} slices: only the replica "
            f"axis may cross slices; set mesh.replica={slices}"
        )
    grid = mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // slices, *sizes[1:]),
        (slices, 1, 1),
        devices,
        allow_split_physical_axes=True,
    )
    return Mesh(grid, AXES, axis_types=types)


def data_shards(mesh: Mesh) -> int:
    """Return the number of parts that a batch is split into."""
    return mesh.shape["replica"] * mesh.shape["fsdp"]


def leaf_spec(name: str, shape: tuple[int, ...], mesh: Mesh, rules: tuple) -> P:
    """Return the spec of one leaf: the first matching rule, then a free dimension over fsdp.

    Args:
        name: the leaf's path, "a/b/c".
        shape: the leaf's shape.
        mesh: the mesh.
        rules: ((path regex, PartitionSpec), ...); the first match wins.

    Returns:
        The spec; the largest dimension that is free and divisible is split over `fsdp` unless a
        rule did so or the leaf is smaller than MIN_SPLIT.
    """
    spec: list[Any] = [None] * len(shape)
    for pattern, rule in rules:
        if re.search(pattern, name):
            if len(rule) == len(shape):  # optimizers that factor moments keep fewer dimensions
                spec = [_fits(axis, size, mesh) for axis, size in zip(rule, shape, strict=True)]
            break
    fsdp = mesh.shape["fsdp"]
    used = {a for axis in spec for a in (axis if isinstance(axis, tuple) else (axis,))}
    if fsdp > 1 and "fsdp" not in used and math.prod(shape) >= MIN_SPLIT:
        free = [i for i, axis in enumerate(spec) if axis is None and shape[i] % fsdp == 0]
        if free:
            spec[max(free, key=lambda i: shape[i])] = "fsdp"
    while spec and spec[-1] is None:
        spec.pop()
    return P(*spec)


def _fits(axis: Any, size: int, mesh: Mesh) -> Any:
    """Return the mesh axis (or axes) if it splits a dimension of this size evenly, else None."""
    names = axis if isinstance(axis, tuple) else (axis,) if axis else ()
    parts = math.prod(mesh.shape[n] for n in names)
    return axis if parts > 1 and size % parts == 0 else None


def infer_sharding(tree: Any, mesh: Mesh, rules: tuple = (), lanes: bool = False) -> Any:
    """Return shardings for a whole tree, optimizer moments included.

    Args:
        tree: pytree of arrays or ShapeDtypeStructs.
        mesh: the mesh.
        rules: ((path regex, PartitionSpec), ...), matched by `re.search` on "a/b/c" paths.
        lanes: leaves have a leading lane axis, which is not split.

    Returns:
        The same pytree of NamedShardings.
    """

    def one(path: tuple, leaf: Any) -> NamedSharding:
        shape = leaf.shape[1:] if lanes else leaf.shape
        spec = leaf_spec(path_name(path), shape, mesh, rules)
        return NamedSharding(mesh, P(None, *spec) if lanes else spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Return the sharding of a batch: rows over replica and fsdp.

    Args:
        mesh: the mesh.
        leading: the number of axes before the rows (steps, lanes), which are not split.
    """
    return NamedSharding(mesh, P(*[None] * leading, BATCH_AXES))


def split_rows(x: jax.Array) -> jax.Array:
    """Constrain axis 0 (rows or tokens) to the data axes of the current mesh.

    Parameters are split over `fsdp` too. Without a constraint XLA may gather what a layer computes
    instead of its parameters, and every device then keeps the whole batch. Rows that a program
    draws itself have no sharding at all: without a constraint every device computes all of them.
    On one device, or if the rows do not divide evenly, x is returned unchanged.

    Args:
        x: rows or tokens on axis 0.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = math.prod(mesh.shape.get(axis, 1) for axis in BATCH_AXES)
    if parts == 1 or not x.ndim or x.shape[0] % parts:
        return x
    free = (P.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES, *free))


def gathered(x: jax.Array, name: str, rules: tuple) -> jax.Array:
    """Gather a parameter over `fsdp` where a layer uses it; split its gradient again.

    A device then keeps the whole parameters of one layer at a time, and XLA has no other choice.
    Cast the parameter before, so that the message is half as large.

    Args:
        x: the parameter of one layer.
        name: its path, "a/b/kernel".
        rules: the task's sharding rules; of rules for stacked parameters the last axes count.

    Returns:
        x, replicated over `fsdp`.
    """
    mesh: Any = jax.sharding.get_abstract_mesh()
    if mesh.shape.get("fsdp", 1) == 1:
        return x
    rules = tuple((pattern, P(*rule[-x.ndim :])) for pattern, rule in rules)
    split = leaf_spec(name, x.shape, mesh, rules)
    return _gathered(x, split, P(*[None if axis == "fsdp" else axis for axis in split]))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: jax.Array, split: P, whole: P) -> jax.Array:
    x = jax.lax.with_sharding_constraint(x, split)
    return jax.lax.with_sharding_constraint(x, whole)


def _gathered_backward(split: P, whole: P, _: None, grad: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(grad, split),)


_gathered.defvjp(lambda x, split, whole: (_gathered(x, split, whole), None), _gathered_backward)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays of which every device has a full copy."""
    return NamedSharding(mesh, P())


def put(tree: Any, sharding: Any) -> Any:
    """Place host arrays, which are the same on every process, onto the mesh.

    Args:
        tree: pytree of numpy arrays.
        sharding: one NamedSharding, or a pytree of them like `tree`.
    """
    if isinstance(sharding, jax.sharding.Sharding):
        sharding = jax.tree.map(lambda _: sharding, tree)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(x: Any, s: NamedSharding) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, s, lambda index: x[index])

    return jax.tree.map(one, tree, sharding)


def check_batch(spec: Any, mesh: Mesh, accumulate: int) -> None:
    """Raise ConfigError if a batch's rows do not divide into micro-batches and devices.

    Args:
        spec: the batch as ShapeDtypeStructs.
        mesh: the mesh.
        accumulate: the number of micro-batches.
    """
    parts = data_shards(mesh) * accumulate
    for path, leaf in jax.tree_util.tree_leaves_with_path(spec):
        if leaf.shape[0] % parts:
            raise ConfigError(
                f"batch part {path_name(path)!r} has {leaf.shape[0]} rows, not divisible by "
                f"{data_shards(mesh)} data shards x {accumulate} micro-batches; "
                "change data.batch_size, data.num_buckets, mesh.* or accumulate"
            )
