"""Sparse linear regression in context: 3 of 20 weights.

    python train.py --config=configs/looped/sparse.py --workdir=runs/looped_sparse

The paper's size: width 256, 8 heads, b=20, T=15, 500,000 steps. Not measured: it is for an
accelerator. Published there at 10 points: transformer .085, looped .021, lasso .050. Compiled for
v5e:2x2, never run: the numbers of linear.py:full; in 219 s, on 2 cores with a load of 9.
"""

from configs.looped.linear import full
from flaxae.config import Config
from flaxae.models.looped.problems import Problem


def get_config() -> Config:
    return full(Problem.SPARSE)
