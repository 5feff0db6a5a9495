"""Decision trees of depth 4 in context.

    python train.py --config=configs/looped/tree.py --workdir=runs/looped_tree

The paper's size: d=20, 101 points, width 256, 8 heads, b=70, T=15, 500,000 steps. Not measured: it
is for an accelerator. Published there at 100 points: transformer .07, looped .03.
"""

from configs.looped.linear import full
from flaxae.config import Config
from flaxae.models.looped.problems import Problem


def get_config() -> Config:
    return full(Problem.TREE, points=101, loops=70)
