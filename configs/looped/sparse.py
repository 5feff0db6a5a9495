"""In-context sparse linear regression: 3 of 20 weights are not 0.

    python train.py --config=configs/looped/sparse.py --workdir=runs/looped_sparse

The paper's size: width 256, 8 heads, b=20, T=15, 500,000 steps. Not measured: it needs an
accelerator. The paper's errors at 10 points are .085 (transformer), .021 (looped) and .050 (lasso).
Compiled for v5e:2x2, never run: the numbers are those of linear.py:full. It compiled in 219 s on 2
cores with a load of 9.
"""

from configs.looped.linear import full
from flaxae.config import Config
from flaxae.models.looped.problems import Problem


def get_config() -> Config:
    """Return the config."""
    return full(Problem.SPARSE)
