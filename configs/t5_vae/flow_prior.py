"""A rectified flow on the codes of a trained T5-VAE: a learned prior for its samples.

    python train.py --config=configs/t5_vae/python_lines.py --workdir=runs/t5_vae
    python train.py --config=configs/t5_vae/flow_prior.py --workdir=runs/t5_vae_flow
    python -m flaxae.evaluate runs/t5_vae_flow

`--config.task.codes_from=WORKDIR` names another T5-VAE.

Measured on python_lines' full model, all 155,674 training codes, seed 0, 2 cores (3.4 steps a
second; 40,000 lines are encoded in 88 s), stopped at step 2,791 of 3,000; 1,000 samples each.
Loss on held-out codes at step 2,500: 1.369, where a Gaussian of full covariance has pi / 2 =
1.571. It is no better a prior for that: .117 [.097, .137] of its samples are valid Python, N(0,
I)'s .124 [.103, .146], a Gaussian's .110, GMM-10's .157 [.134, .180], real codes' .571. Its
samples fall short: |z|^2 is .88 a dimension, that of codes 1.01. Code -> noise -> code keeps
exact match at .986 as it is. Ways through its noise are valid .405 [.366, .444] of the time,
slerp's .418 [.377, .455].
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
from flaxae.models.t5_vae.prior.task import FlowConfig

STEPS = 3000


def get_config() -> Config:
    return Config(
        task=FlowConfig(codes_from="runs/t5_vae", width=768, depth=4, scan_unroll=4),
        data=DataConfig(batch_size=256),
        optim=OptimConfig(lr=1e-3, schedule=Schedule.COSINE, warmup=100, ema=0.995),
        log=LogConfig(every=50),
        eval=EvalConfig(every=500, splits=("dev",), sample_every=1000, num_samples=6),
        save=SaveConfig(every=500, keep=1),
        steps=STEPS,
    )
