"""In-context regression of two-layer ReLU networks with 100 hidden units.

    python train.py --config=configs/looped/relu.py --workdir=runs/looped_relu

The paper's size: d=20, 101 points, width 256, 8 heads, b=12, T=5, 500,000 steps. Not measured: it
needs an accelerator. The paper's errors at 100 points are .170 (transformer) and .180 (looped).
Compiled for v5e:2x2 by flaxae.tpu_compile, never run: per chip and step .05 of 16 GiB of HBM, .123
TFLOP and 5.2 GB accessed, with the 7 loops without gradient counted as one. It compiled in 255 s on
2 cores with a load of 9.
"""

from configs.looped.linear import full
from flaxae.config import Config
from flaxae.models.looped.problems import Problem


def get_config() -> Config:
    """Return the config."""
    config = full(Problem.RELU, points=101, loops=12)
    config.task.grad_loops = config.task.loops_start = 5  # pyright: ignore
    return config
