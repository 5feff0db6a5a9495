"""The costs of a compiled training step: memory, FLOPs, traffic, messages, and time bounds."""

import dataclasses
import math
import time
from typing import Any

from flaxae.config import Config
from flaxae.tpu_compile import compiler
from flaxae.tpu_compile.chips import chip_of
from flaxae.tpu_compile.collectives import Collective
from flaxae.tpu_compile.hlo import Program
from flaxae.training.layout import make_layout


@dataclasses.dataclass(frozen=True)
class Report:
    """Costs of a compiled training step per chip and step; sizes are in bytes.

    Attributes:
        topology: chip and slice, such as "v5e:2x4".
        chips: number of chips of all slices.
        slices: number of slices.
        mesh: size of each mesh axis.
        rows_a_chip: rows of the batch per chip.
        params: trainable parameters of the whole model.
        fits: whether the program fits the chip's memory.
        hbm_bytes: peak memory, arguments and code included.
        hbm_capacity_bytes: memory of the chip.
        argument_bytes: parameters, optimizer state and batch.
        temporary_bytes: the compiler's count of temporaries. Some share memory with donated
            arguments and outputs, so that arguments, temporaries and outputs can add up to more
            than the peak.
        output_bytes: outputs that do not replace arguments.
        code_bytes: the program itself.
        flops: FLOPs of the compiled program, with loops counted as often as they run.
        task_flops: FLOPs of the task's own count.
        bytes_accessed: memory traffic, with loops counted as often as they run.
        collective_bytes: bytes sent by kind of message if the chips form a ring.
        collective_bytes_by_axis: the same by mesh axis.
        seconds: time for FLOPs, memory traffic and messages at the chip's peaks; the network
            between slices is assumed to be as fast as the links inside a slice.
        step_seconds_bound: largest of these times.
        mfu_bound: task_flops / peak FLOP/s / step_seconds_bound.
        compile_seconds: time of the compilation.
        unknown_loops: number of loops whose trip count is not in the program; they count once.
        steps_per_call: steps per call of the program.
        collectives: all messages of one call.
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
        """Return all fields by name, except the list of messages."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del kept["collectives"]
        return kept


def costs(compiled: Any) -> tuple[Program, float, float]:
    """Return a compiled program, its FLOPs and its bytes accessed, per chip and call."""
    program, reported = Program(compiled.as_text()), compiled.cost_analysis()
    reported = reported[0] if isinstance(reported, list) else reported
    cost = program.cost()
    # The TPU compiler's analysis includes padding of arrays, but not the trip counts of loops.
    flops = reported["flops"] * cost["flops"] / max(cost["flops_once"], 1.0)
    accessed = reported["bytes accessed"] * cost["bytes"] / max(cost["bytes_once"], 1.0)
    return program, flops, accessed


def analyse(config: Config, name: str, *, effort: float = 0.0, slices: int = 1) -> Report:
    """Compile a config's training step for a slice and report its costs.

    Args:
        config: the config.
        name: chip and slice, such as "v5e:2x4".
        effort: XLA's exec_time_optimization_effort; -1 compiles fastest, 0 is a run's setting.
        slices: number of slices.

    Raises:
        DoesNotFit: if the program needs more memory than a chip has.
        ConfigError: if mesh, batch and slice do not match.
    """
    devices = compiler.topology(name, slices)
    began = time.perf_counter()
    task, mesh, compiled = compiler.compile_step(config, devices, effort)
    seconds = time.perf_counter() - began
    program, flops, accessed = costs(compiled)
    memory = compiled.memory_analysis()
    steps = config.steps_per_call
    messages = program.collectives(dict(mesh.shape))
    by_kind: dict[str, float] = {}
    by_axis: dict[str, float] = {}
    for m in messages:
        by_kind[m.kind] = by_kind.get(m.kind, 0.0) + m.times * m.sent / steps
        by_axis[m.axis] = by_axis.get(m.axis, 0.0) + m.times * m.sent / steps
    chip = chip_of(name)
    bounds = {
        "compute": flops / steps / chip.flops,
        "hbm": accessed / steps / chip.hbm_bandwidth,
        "ici": sum(by_kind.values()) / chip.ici_bandwidth,
    }
    bound = max(bounds.values())
    expected = task_flops(config, mesh.size)
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Report(
        topology=name,
        chips=mesh.size,
        slices=slices,
        mesh=dict(mesh.shape),
        rows_a_chip=batch_rows(task.batch_spec()) / mesh.size,
        params=train_parameters(config),
        fits=True,
        hbm_bytes=float(peak_bytes(memory) + memory.generated_code_size_in_bytes),
        hbm_capacity_bytes=float(chip.hbm),
        argument_bytes=float(memory.argument_size_in_bytes),
        temporary_bytes=float(memory.temp_size_in_bytes),
        output_bytes=float(output),
        code_bytes=float(memory.generated_code_size_in_bytes),
        flops=flops / steps,
        task_flops=expected,
        bytes_accessed=accessed / steps,
        collective_bytes=by_kind,
        collective_bytes_by_axis=by_axis,
        seconds=bounds,
        step_seconds_bound=bound,
        mfu_bound=expected / chip.flops / bound if bound else 0.0,
        compile_seconds=seconds,
        unknown_loops=len(program.unknown_loops),
        steps_per_call=steps,
        collectives=messages,
    )


def peak_bytes(memory: Any) -> int:
    """Return the peak memory of a program from the compiler's memory analysis.

    Without a reported peak it is the sum of arguments, temporaries and outputs. That sum can exceed
    a chip's memory, as temporaries, of scans above all, share memory with donated arguments.
    """
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    whole = memory.argument_size_in_bytes + memory.temp_size_in_bytes + output
    return memory.peak_memory_in_bytes or whole


def task_flops(config: Config, chips: int) -> float:
    """Return the task's own count of a step's FLOPs per chip."""
    task = config.task.make(config)
    return task.flops(task.batch_spec(), {}) / chips


def train_parameters(config: Config) -> int:
    """Count the trained parameters from their shapes."""
    import jax

    layout = make_layout(config.task.make(config), config)
    return sum(math.prod(v.shape) for v in jax.tree.leaves(layout.templates["params"]))


def batch_rows(spec: Any) -> int:
    """Return the number of rows of a batch, which may consist of several buckets."""
    import jax

    parts = spec.values() if isinstance(spec, dict) else [spec]
    firsts = [jax.tree.leaves(part)[0] for part in parts if jax.tree.leaves(part)]
    whole = isinstance(spec, dict) and all(isinstance(part, dict) for part in parts)
    rows = [leaf.shape[0] for leaf in firsts]
    return sum(rows) if whole else max(rows, default=0)
