"""The report's runs by name, so that a run is trained once even if several tables use it.

This file is not an experiment; the experiments are the report_*.py in this folder.

The cost of a run is counted in passes of a block (`report.passes`): about L (b + 3 min(b, T)) per
step. The runs that most claims are about have 6000 steps, the others fewer; claims about runs of
unequal length compare training errors after equal steps and say so. All runs together take 4.5 M
passes per seed. Their times are in docs/lab_notes/2026-11-27.md.
"""

from typing import Any

from configs.looped.linear import small
from flaxae.config import Config
from flaxae.errors import ConfigError
from flaxae.models.looped.modeling import ModelConfig

QUICK_SHARE = 6  # a quick run has 1 / 6 of the steps


def base(quick: bool) -> Config:
    """Return the config that all runs share."""
    config = small()
    # The report measures finished runs; evaluation during training is kept small.
    config.task.eval_loops = 0
    config.task.eval_batches = 4
    config.log.tensorboard = False
    config.log.every = 20
    config.save.every = 500
    if quick:
        config.task.model = ModelConfig(dims=1, points=5, width=32, num_heads=2)
        config.data.batch_size = 32
        config.optim.lr = 3e-3
    return config


def _run(b: int, t: int = 0, layers: int = 1, steps: int = 2000, **more: Any) -> dict[str, Any]:
    out: dict[str, Any] = {"task.loops": b, "task.grad_loops": min(b, t or b), "steps": steps}
    if layers > 1:
        # A single pass stores only the inputs of layers; unrolled, XLA would store everything.
        unroll = layers if b > 1 else 1
        out |= {"task.model.num_layers": layers, "task.model.scan_unroll": unroll}
    return out | {name.replace("__", "."): value for name, value in more.items()}


GROWING = {"task__loops_start": 5, "task__loops_every": 100}
RUNS: dict[str, dict[str, Any]] = {
    "b=5": _run(5, steps=6000),
    "b=10": _run(10, steps=6000),
    "b=10 T=5": _run(10, 5, steps=6000),
    "b=20 T=5": _run(20, 5, steps=6000),
    "b=20 T=10": _run(20, 10, steps=6000),
    "b=20 T=20": _run(20, 20, steps=4000),
    "b=25 T=10": _run(25, 10, steps=4000),
    "b=25 T=20": _run(25, 20, steps=3000),
    "one pass, L=1": _run(1, steps=6000),
    "one pass, L=4": _run(1, layers=4, steps=6000),
    "one pass, L=12": _run(1, layers=12, steps=6000),
    "b growing to 20, T=5": _run(20, 5, steps=6000, **GROWING),
    "b random about 20, T=5": _run(20, 5, steps=6000, task__random_loops=True),
    "L=2 b=10 T=5": _run(10, 5, 2),
    "L=2 b=20 T=5": _run(20, 5, 2),
    "L=4 b=10 T=5": _run(10, 5, 4),
    "L=4 b=20 T=5": _run(20, 5, 4),
    "L=2 b=10 T=10": _run(10, 10, 2, steps=1500),
    "L=4 b=10 T=10": _run(10, 10, 4, steps=1500),
    "noisy, b=20 T=5": _run(20, 5, steps=4000, task__problem="noisy"),
    "noisy, one pass, L=12": _run(1, layers=12, steps=4000, task__problem="noisy"),
    "learned scale, b=20 T=5": _run(20, 5, steps=3000, task__model__injection="scaled"),
    "linear, b=20 T=5": _run(20, 5, task__model__injection="linear"),
    "multiply, b=20 T=5": _run(20, 5, task__model__injection="multiply"),
    "no re-injection, b=20 T=5": _run(20, 5, steps=6000, task__model__injection="none"),
}


def pick(names: list[str], quick: bool) -> dict[str, dict[str, Any]]:
    """Return runs by name; quick runs have a sixth of the steps and grow six times as fast."""
    if unknown := set(names) - set(RUNS):
        raise ConfigError(f"configs/looped/shared.py has no run {sorted(unknown)}")
    return {name: _quick(RUNS[name]) if quick else RUNS[name] for name in names}


def _quick(run: dict[str, Any]) -> dict[str, Any]:
    every = base(True).steps_per_call
    out = run | {"steps": run["steps"] // (QUICK_SHARE * every) * every}
    if "task.loops_every" in run:
        out["task.loops_every"] = run["task.loops_every"] // QUICK_SHARE
    return out
