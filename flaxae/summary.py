"""Parameters, mesh and shardings of a config, without training: `python -m flaxae.summary`."""

import math
import sys

from flaxae.command import run_main
from flaxae.config import Config, flags
from flaxae.config.ranges import Range
from flaxae.training.state import abstract_state

USAGE = "Prints a config's parameters, mesh and shardings; nothing is trained or allocated."
DEVICES = "number of simulated CPU devices; 0: the real devices"
OPTIONS = (flags.Option("devices", 0, DEVICES, Range(0, 4096, "[]")),)
SHOWN = 2**20  # bytes; smaller leaves of the state are only counted


def summary(config: Config) -> str:
    """Return the text that the command prints.

    Args:
        config: the config; data that cannot be read are not an error: the text reports it.

    Raises:
        ConfigError: if the mesh does not fit the devices, or the batch does not fit the mesh.
    """
    import jax
    from clu import parameter_overview

    from flaxae.errors import ConfigError
    from flaxae.machine import sharding
    from flaxae.tree import path_name

    task = config.task.make(config)
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        state = abstract_state(task, config, mesh)
    try:
        spec = task.batch_spec()
    except ConfigError as error:  # sizes can be planned before there are data
        lines = [f"The batch is not checked: {error}", ""]
    else:
        lines = []
        sharding.check_batch(spec, mesh, config.accumulate)
    overview = parameter_overview.get_parameter_overview(state["params"], include_stats=False)
    axes = " x ".join(f"{name}={size}" for name, size in mesh.shape.items())
    lines += ["Trainable parameters", overview, ""]
    lines += [f"Mesh: {axes} on {mesh.size} x {jax.devices()[0].device_kind}", ""]
    lines += [f"State, leaves of {SHOWN >> 20} MB and more, with each device's share"]
    rows, small = [("leaf", "shape", "sharding", "MB", "MB per device")], 0
    totals: dict[str, list[float]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = path_name(path)
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        local = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        total = totals.setdefault(name.split("/")[0], [0, 0])
        total[0] += size
        total[1] += local
        if size < SHOWN:
            small += 1
            continue
        spec = ", ".join(str(axis) for axis in leaf.sharding.spec) or "replicated"
        rows.append((name, str(leaf.shape), spec, _mb(size), _mb(local)))
    lines += [*_table(rows), f"and {small} smaller leaves", ""]
    rows = [("part", "MB", "MB per device")]
    rows += [(name, _mb(size), _mb(local)) for name, (size, local) in totals.items()]
    everything, per_device = (sum(column) for column in zip(*totals.values(), strict=True))
    rows.append(("all", _mb(everything), _mb(per_device)))
    return "\n".join(lines + _table(rows))


def _mb(size: float) -> str:
    return f"{size / 2**20:.2f}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def main(argv: list[str]) -> int:
    """Run the command line; return its exit code."""
    config, _, extra = flags.parse(
        ["python -m flaxae.summary", *argv[1:]], OPTIONS, USAGE, workdir=False
    )
    if extra["devices"]:
        import jax

        # Before the first use of a device.
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", extra["devices"])
    print(summary(config))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
