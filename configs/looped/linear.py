"""In-context linear regression by a looped transformer, in two sizes.

    python train.py --config=configs/looped/linear.py --workdir=runs/looped            # small
    python train.py --config=configs/looped/linear.py:full --workdir=runs/looped_full

small: d=3, 8 points, width 32, 2 heads, b=20 loops, T=5 loops with gradient, learning rate 1e-3.
Results with intervals over seeds, made by `python -m flaxae.models.looped.report`, are in
docs/families/looped.md.

full: the paper's size, d=20, 41 points, width 256, 8 heads, b=20, T=15, 500,000 steps, with
curricula of dimensions (5 to 20, one more every 5,000 steps), points (11 to 41, two more every
5,000) and loops. On one H100 with seed 0 it made 87 steps per second (20 per call) in .3 GB. The
error of the last point over the variance of y, for one batch of 64 per log line, is 1.20 at step
100, .26 at 1,100, .03 at 4,100 and .01 to .02 from 9,700 to 9,900 of 500,000, with 5 and 6
dimensions and 11 and 13 points. The result at the end is not measured.

Compiled, but never run, by `python -m flaxae.tpu_compile --config=configs/looped/linear.py:full
--topology=v5e:2x2`: per chip and step .02 of 16 GiB of HBM, .135 TFLOP, 5.2 GB accessed, at best
6.4 ms, bound by the HBM. The 5 loops without gradient are counted once, because their number is
traced. It compiled in 190 s on 2 cores with a load of 9.
"""

from flaxae.config import (
    Config,
    DataConfig,
    EvalConfig,
    LogConfig,
    OptimConfig,
    SaveConfig,
    Schedule,
)
from flaxae.errors import ConfigError
from flaxae.models.looped.modeling import ModelConfig
from flaxae.models.looped.problems import Problem
from flaxae.models.looped.task import LoopedConfig


def small(steps: int = 6000) -> Config:
    """Return the small preset, which all reports share."""
    return Config(
        task=LoopedConfig(
            model=ModelConfig(dims=3, points=8, width=32, num_heads=2),
            loops=20,
            grad_loops=5,
            eval_loops=60,
        ),
        data=DataConfig(batch_size=64),
        optim=OptimConfig(lr=1e-3, schedule=Schedule.CONSTANT, clip_norm=0.0),
        log=LogConfig(every=100),
        eval=EvalConfig(every=0, splits=("dev",)),
        save=SaveConfig(every=1000),
        steps=steps,
        steps_per_call=20,
    )


def full(problem: Problem, dims: int = 20, points: int = 41, loops: int = 20) -> Config:
    """Return the paper's sizes and curricula."""
    return Config(
        task=LoopedConfig(
            model=ModelConfig(dims=dims, points=points, width=256, num_heads=8),
            problem=problem,
            loops=loops,
            grad_loops=15,
            loops_start=15,
            loops_every=500,
            dims_every=5000,
            points_every=5000,
            eval_loops=2 * loops,
        ),
        data=DataConfig(batch_size=64),
        optim=OptimConfig(lr=1e-4, schedule=Schedule.CONSTANT, clip_norm=0.0),
        log=LogConfig(every=500),
        eval=EvalConfig(every=10_000, splits=("dev",)),
        save=SaveConfig(every=5000),
        steps=500_000,
        steps_per_call=20,
    )


def get_config(size: str = "small") -> Config:
    """Return the config of a size: small or full."""
    match size or "small":
        case "small":
            return small()
        case "full":
            return full(Problem.LINEAR)
    raise ConfigError(f"no preset {size!r}; there are small and full")
