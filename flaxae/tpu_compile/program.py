"""Compiling a config's train step for a slice, and what the compiled program says."""

import dataclasses
import math
import os
import re
import time
from typing import Any

from flaxae.config import Config
from flaxae.errors import ConfigError
from flaxae.machine import libtpu
from flaxae.tpu_compile.chips import chip_of
from flaxae.tpu_compile.hlo import Collective, Program
from flaxae.training.hparams import make_hparams
from flaxae.training.layout import make_layout
from flaxae.training.state import abstract_state


@dataclasses.dataclass(frozen=True)
class Report:
    """One program, a chip and a step; sizes in bytes, loops counted as often as they run.

    Attributes:
        params: trainable parameters of the whole model.
        hbm_bytes: the most that is held at once, arguments among it, + code.
        temporary_bytes: the compiler's count. Donated arguments and outputs share room with some of
            them, so arguments, temporaries and output can add up to more than is ever held.
        flops: of the compiled program; task_flops: the task's own count, / chips.
        collective_bytes: kind -> what a chip sends, by a ring.
        collectives: every message, of a call of several steps all of them.
        seconds: what FLOPs, bytes accessed and bytes sent would take; the network between slices is
            taken for as fast as a slice's own.
        step_seconds_bound: the largest of compute, HBM and ICI seconds.
        mfu_bound: task_flops / peak / step_seconds_bound.
        unknown_loops: whose number of turns the program does not say; counted once.
    """

    topology: str
    chips: int
    slices: int
    mesh: dict[str, int]
    rows_a_chip: float
    params: int
    fits: bool
    hbm_bytes: float
    hbm_capacity_bytes: float
    argument_bytes: float
    temporary_bytes: float
    output_bytes: float
    code_bytes: float
    flops: float
    task_flops: float
    bytes_accessed: float
    collective_bytes: dict[str, float]
    collective_bytes_by_axis: dict[str, float]
    seconds: dict[str, float]
    step_seconds_bound: float
    mfu_bound: float
    compile_seconds: float
    unknown_loops: int
    steps_per_call: int
    collectives: list[Collective] = dataclasses.field(default_factory=list, repr=False)

    def json(self) -> dict[str, Any]:
        """All numbers but the list of messages."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del kept["collectives"]
        return kept


class DoesNotFit(ConfigError):
    """The compiler ran out of the chip's memory; its own message is in it.

    Attributes:
        needed: bytes that it asked for; None where the message does not say.
    """

    def __init__(self, message: str, needed: float | None = None):
        super().__init__(message)
        self.needed = needed


def topology(name: str, slices: int = 1) -> list[Any]:
    """The devices of a slice, described by libtpu; there need not be any.

    Args:
        name: chip and slice, such as "v5e:2x4".
        slices: how many such slices, joined by the data centre's network.

    Raises:
        ConfigError: no libtpu, or no such slice.
    """
    chip = chip_of(name)
    # Without these libtpu asks a metadata server that is not there, and warns of its workers.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # No chip is opened, so another process may have libtpu loaded too.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    libtpu.set_flags()
    from jax.experimental import topologies

    try:
        more: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
        if chip.config:
            more["chip_config_name"] = chip.config
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **more)
    except Exception as error:
        text = str(error).splitlines()[0]
        if "libtpu" in text or "not found" in text.lower() and "tpu" in text.lower():
            raise ConfigError(
                "compiling for a TPU needs libtpu: pip install -c constraints.txt -e '.[tpu]'"
                f" ({text})"
            ) from error
        raise ConfigError(f"--topology={name}: libtpu knows no such slice ({text})") from error
    return list(found.devices)


def abstract_step(config: Config, devices: list[Any]) -> tuple[Any, Any, Any, Any]:
    """The train step as the loop makes it, and abstract arguments: nothing is materialised.

    Returns:
        task, mesh, jitted step, (state, frozen, batch, hparams).
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
    """Compiles the train step for these devices.

    Args:
        config: a flaxae Config.
        devices: of `topology`.
        effort: XLA's exec_time_optimization_effort; -1 compiles fastest, 0 is what a run gets.

    Returns:
        task, mesh, the compiled step.

    Raises:
        DoesNotFit: not enough HBM.
    """
    import jax

    task, mesh, step, arguments = abstract_step(config, devices)
    options: dict[str, Any] = {"exec_time_optimization_effort": effort} if effort else {}
    # Without a client, programs can be written to the cache but not read from it.
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
    """The compiler's own message, if it is of too little memory."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return None
    found = re.search(r"Used ([\d.]+)([KMGT]) of|HLO temporaries \(([\d.]+)([KMGT])\)", text)
    needed = None
    if found:
        number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
        needed = float(number) * 2 ** (10 * (1 + "KMGT".index(unit)))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return DoesNotFit(" ".join(lines[:2])[:600], needed)


def analyse(config: Config, name: str, *, effort: float = 0.0, slices: int = 1) -> Report:
    """Compiles a config's train step for a slice and reads the program.

    Args:
        config: a flaxae Config.
        name: the slice, see `topology`.
        effort, slices: see `compile_step` and `topology`.

    Raises:
        DoesNotFit: not enough HBM.
        ConfigError: mesh, batch and slice do not go together.
    """
    devices = topology(name, slices)
    began = time.perf_counter()
    task, mesh, compiled = compile_step(config, devices, effort)
    seconds = time.perf_counter() - began
    program = Program(compiled.as_text())
    memory, reported = compiled.memory_analysis(), compiled.cost_analysis()
    reported = reported[0] if isinstance(reported, list) else reported
    cost = program.cost()
    # The TPU's own analysis knows how arrays are padded, but not how often loops run.
    flops = reported["flops"] * cost["flops"] / max(cost["flops_once"], 1.0)
    accessed = reported["bytes accessed"] * cost["bytes"] / max(cost["bytes_once"], 1.0)
    steps = config.steps_per_call
    messages = program.collectives(dict(mesh.shape))
    by_kind, by_axis = {}, {}
    for m in messages:
        by_kind[m.kind] = by_kind.get(m.kind, 0.0) + m.times * m.sent / steps
        by_axis[m.axis] = by_axis.get(m.axis, 0.0) + m.times * m.sent / steps
    chip = chip_of(name)
    bounds = {
        "compute": flops / steps / chip.flops,
        "hbm": accessed / steps / chip.hbm_bandwidth,
        "ici": sum(by_kind.values()) / chip.ici_bandwidth,
    }
    spec = task.batch_spec()
    bound = max(bounds.values())
    own = task_flops(config, mesh.size)
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    parts = (memory.argument_size_in_bytes, memory.temp_size_in_bytes, output)
    params = train_parameters(config)
    return Report(
        topology=name,
        chips=mesh.size,
        slices=slices,
        mesh=dict(mesh.shape),
        rows_a_chip=rows_of(spec) / mesh.size,
        params=params,
        fits=True,
        hbm_bytes=float(held_bytes(memory) + memory.generated_code_size_in_bytes),
        hbm_capacity_bytes=float(chip.hbm),
        argument_bytes=float(parts[0]),
        temporary_bytes=float(parts[1]),
        output_bytes=float(output),
        code_bytes=float(memory.generated_code_size_in_bytes),
        flops=flops / steps,
        task_flops=own,
        bytes_accessed=accessed / steps,
        collective_bytes=by_kind,
        collective_bytes_by_axis=by_axis,
        seconds=bounds,
        step_seconds_bound=bound,
        mfu_bound=own / chip.flops / bound if bound else 0.0,
        compile_seconds=seconds,
        unknown_loops=len(program.unknown),
        steps_per_call=steps,
        collectives=messages,
    )


def held_bytes(memory: Any) -> int:
    """The most that a program holds at once, by the compiler's memory analysis.

    Arguments, temporaries and outputs share room where arguments are donated, scans' temporaries
    most of all, so their sum (all there is where no peak is told) can be more than a chip has.
    """
    beside = memory.output_size_in_bytes - memory.alias_size_in_bytes
    whole = memory.argument_size_in_bytes + memory.temp_size_in_bytes + beside
    return memory.peak_memory_in_bytes or whole


def task_flops(config: Config, chips: int) -> float:
    """The task's own count of a step, a chip."""
    task = config.task.make(config)
    return task.flops(task.batch_spec(), {}) / chips


def train_parameters(config: Config) -> int:
    """How many parameters are trained, counted from shapes."""
    import jax

    layout = make_layout(config.task.make(config), config)
    return sum(math.prod(v.shape) for v in jax.tree.leaves(layout.templates["params"]))


def rows_of(spec: Any) -> int:
    """Rows of a batch of several parts."""
    import jax

    parts = spec.values() if isinstance(spec, dict) else [spec]
    firsts = [jax.tree.leaves(part)[0] for part in parts if jax.tree.leaves(part)]
    whole = isinstance(spec, dict) and all(isinstance(part, dict) for part in parts)
    rows = [leaf.shape[0] for leaf in firsts]
    return sum(rows) if whole else max(rows, default=0)
