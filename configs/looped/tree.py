"""In-context regression of decision trees of depth 4.

    python train.py --config=configs/looped/tree.py --workdir=runs/looped_tree

The paper's size: d=20, 101 points, width 256, 8 heads, b=70, T=15, 500,000 steps. Not measured: it
needs an accelerator. The paper's errors at 100 points are .07 (transformer) and .03 (looped).
Compiled for v5e:2x2 by flaxae.tpu_compile, never run: per chip and step .08 of 16 GiB of HBM, .358
TFLOP and 16.1 GB accessed, with the 55 loops without gradient counted as one. It compiled in 313 s
on 2 cores with a load of 9.
"""

from configs.looped.linear import full
from flaxae.config import Config
from flaxae.models.looped.problems import Problem


def get_config() -> Config:
    """Return the config."""
    return full(Problem.TREE, points=101, loops=70)
