"""The mesh and the shardings of everything that lives on it.

`jax.jit` over a `Mesh` of axes `replica` (between slices), `fsdp` and `model` is the only
parallelism here (`pjit` is `jit` today, `pmap` is in maintenance mode).
"""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxae.config import ConfigError, MeshConfig
from flaxae.tree import path_name

AXES = ("replica", "fsdp", "model")
BATCH_AXES = ("replica", "fsdp")
MIN_SPLIT = 2**14  # elements; splitting less costs more in messages than it saves


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """Builds the mesh.

    Args:
        config: sizes of the axes; a 0 takes all devices that the others leave.
        devices: defaults to all devices of all processes.
    Raises:
        ConfigError: the sizes do not fit the number of devices.
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
    return jax.make_mesh(
        tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:total]
    )


def data_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["replica"] * mesh.shape["fsdp"]


def leaf_spec(name: str, shape: tuple[int, ...], mesh: Mesh, rules: tuple) -> P:
    """The spec of one leaf: the first matching rule, then the largest free dimension over fsdp."""
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
    names = axis if isinstance(axis, tuple) else (axis,) if axis else ()
    return axis if names and size % math.prod(mesh.shape[n] for n in names) == 0 else None


def infer_sharding(tree: Any, mesh: Mesh, rules: tuple = (), lanes: bool = False) -> Any:
    """Shardings for a whole tree, optimizer moments included.

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
    """Rows split over replica and fsdp; `leading` axes before the rows (steps, lanes) are not."""
    return NamedSharding(mesh, P(*[None] * leading, BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def put(tree: Any, sharding: Any) -> Any:
    """Places host arrays, the same on every process, onto the mesh.

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
    """Raises ConfigError where a batch's rows do not divide into micro-batches and devices."""
    parts = data_shards(mesh) * accumulate
    for path, leaf in jax.tree_util.tree_leaves_with_path(spec):
        if leaf.shape[0] % parts:
            raise ConfigError(
                f"batch part {path_name(path)!r} has {leaf.shape[0]} rows, not divisible by "
                f"{data_shards(mesh)} data shards x {accumulate} micro-batches; "
                "change data.batch_size, data.num_buckets, mesh.* or accumulate"
            )
