"""A rectified flow on the codes of a trained T5-VAE: a learned prior for its samples.

    python train.py --config=configs/t5_vae/python_lines.py --workdir=runs/t5_vae
    python train.py --config=configs/t5_vae/flow_prior.py --workdir=runs/t5_vae_flow
    python -m flaxae.evaluate runs/t5_vae_flow

`--config.task.codes_from=WORKDIR` names another T5-VAE. The preset `flow_prior.py:wide` is wider,
deeper and longer, with self-conditioning; it was not measured.

Measured on the model of python_lines:copy with all 155,674 training codes and seed 0, on 2 cores
(3.4 steps per second; 40,000 lines are encoded in 88 s), stopped at step 2,791 of 3,000. The loss
on held-out codes at step 2,500 is 1.369; a Gaussian with full covariance has pi / 2 = 1.571. Still
it is not a better prior. Valid Python among 1,000 samples each: .117 [.097, .137] for the flow,
.124 [.103, .146] for N(0, I), .110 for a Gaussian, .157 [.134, .180] for GMM-10, and .571 for real
codes. The samples of the flow are too short: |z|^2 is .88 per dimension, and 1.01 for codes. A code
mapped to noise and back is decoded with an exact match of .986, as without. Interpolation through
the noise gives valid Python .405 [.366, .444] of the time, slerp .418 [.377, .455].
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
from flaxae.errors import require
from flaxae.models.t5_vae.prior.task import FlowConfig

STEPS, WIDE_STEPS = 3000, 30_000


def get_config(preset: str = "default") -> Config:
    """Return the config of a preset: default or wide."""
    require(preset in ("default", "wide"), f"preset {preset!r}: give default or wide")
    task = FlowConfig(codes_from="runs/t5_vae", width=768, depth=4, scan_unroll=4)
    if preset == "wide":
        task = FlowConfig(
            codes_from="runs/t5_vae", width=1024, depth=8, self_condition=True, scan_unroll=8
        )
    return Config(
        task=task,
        data=DataConfig(batch_size=256),
        optim=OptimConfig(lr=1e-3, schedule=Schedule.COSINE, warmup=100, ema=0.995),
        log=LogConfig(every=50),
        eval=EvalConfig(every=500, splits=("dev",), sample_every=1000, num_samples=6),
        save=SaveConfig(every=500, keep=1),
        steps=STEPS if preset == "default" else WIDE_STEPS,
    )
