"""Compiling a config's training step for a TPU slice that is not attached."""

import importlib.util
import os
import re
from typing import Any

from flaxae.config import Config
from flaxae.errors import ConfigError, causes
from flaxae.machine import libtpu
from flaxae.tpu_compile.chips import chip_of
from flaxae.training.hparams import make_hparams
from flaxae.training.layout import make_layout
from flaxae.training.state import abstract_state


class DoesNotFit(ConfigError):
    """An error with the compiler's message that the program needs more memory than a chip has.

    Attributes:
        needed: bytes that the program needs; None if the message does not contain them.
    """

    def __init__(self, message: str, needed: float | None = None):
        super().__init__(message)
        self.needed = needed


def topology(name: str, slices: int = 1) -> list[Any]:
    """Return libtpu's descriptions of a slice's devices; the devices need not exist.

    Args:
        name: chip and slice, such as "v5e:2x4".
        slices: number of such slices, connected by the data centre's network.

    Raises:
        ConfigError: if libtpu is missing or does not know the slice.
    """
    chip = chip_of(name)
    # Without these libtpu queries a metadata server that does not exist, and warns about it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # No chip is opened, so other processes may load libtpu at the same time.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    libtpu.set_flags()
    from jax.experimental import topologies

    try:
        options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
        if chip.config:
            options["chip_config_name"] = chip.config
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:
        text = causes(error, whole=False)
        if not (importlib.util.find_spec("libtpu") or os.environ.get("TPU_LIBRARY_PATH")):
            raise ConfigError(
                "libtpu is missing: make test-tpu installs it, or pip install -c constraints.txt "
                f"'.[tpu]' ({text})"
            ) from error
        raise ConfigError(f"--topology={name}: libtpu does not know this slice ({text})") from error
    return list(found.devices)


def abstract_step(config: Config, devices: list[Any]) -> tuple[Any, Any, Any, Any]:
    """Make the training step as the loop does, with abstract arguments; no array is allocated.

    Args:
        config: the config.
        devices: the devices, from `topology`.

    Returns:
        The task, the mesh, the jitted step, and its arguments (state, frozen, batch, hparams).
    """
    import jax

    from flaxae.machine import sharding
    from flaxae.training import step as train_step

    task = config.task.make(config)
    mesh = sharding.make_mesh(config.mesh, devices)
    spec = task.batch_spec()
    sharding.check_batch(spec, mesh, config.accumulate)
    with jax.set_mesh(mesh):
        layout = make_layout(task, config)
        state = abstract_state(task, config, mesh)
        step = train_step.make_train_step(
            task, config, layout, jax.tree.map(lambda x: x.sharding, state)
        )
        frozen = layout.shapes("frozen")
        hparams = jax.eval_shape(lambda: make_hparams(task, [config], lanes=False))

    def placed(tree: Any, shardings: Any) -> Any:
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
        )

    steps = config.steps_per_call
    rows = sharding.batch_sharding(mesh, leading=int(steps > 1))
    if steps > 1:
        spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype), spec)
    batch = placed(spec, jax.tree.map(lambda _: rows, spec))
    frozen = placed(frozen, sharding.infer_sharding(frozen, mesh, task.sharding_rules))
    hparams = placed(hparams, jax.tree.map(lambda _: sharding.replicated(mesh), hparams))
    return task, mesh, step, (state, frozen, batch, hparams)


def compile_step(config: Config, devices: list[Any], effort: float = 0.0) -> tuple[Any, Any, Any]:
    """Compile the training step for devices.

    Args:
        config: the config.
        devices: the devices, from `topology`.
        effort: XLA's exec_time_optimization_effort; -1 compiles fastest, 0 is a run's setting.

    Returns:
        The task, the mesh and the compiled step.

    Raises:
        DoesNotFit: if the program needs more memory than a chip has.
    """
    import jax

    task, mesh, step, arguments = abstract_step(config, devices)
    options: dict[str, Any] = {"exec_time_optimization_effort": effort} if effort else {}
    # Without a client, programs can be written to the compilation cache but not read from it.
    cached = jax.config.jax_enable_compilation_cache  # pyright: ignore
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with jax.set_mesh(mesh):
            return task, mesh, step.lower(*arguments).compile(compiler_options=options)
    except Exception as error:
        raise out_of_memory(error) or error from None
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)


def out_of_memory(error: Exception) -> DoesNotFit | None:
    """Return DoesNotFit with the compiler's message if it reports too little memory, else None."""
    text = str(error)
    if not text.startswith("RESOURCE_EXHAUSTED"):  # the status, not a word in another one's text
        return None
    found = re.search(r"Used ([\d.]+)([KMGT]) of|HLO temporaries \(([\d.]+)([KMGT])\)", text)
    needed = None
    if found:
        number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
        needed = float(number) * 2 ** (10 * (1 + "KMGT".index(unit)))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return DoesNotFit(" ".join(lines[:2])[:600], needed)
