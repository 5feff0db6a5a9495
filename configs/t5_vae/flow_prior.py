"""A rectified flow on the codes of a trained T5-VAE: a learned prior for its samples.

    python train.py --config=configs/t5_vae/python_lines.py --workdir=runs/t5_vae
    python train.py --config=configs/t5_vae/flow_prior.py --workdir=runs/t5_vae_flow
    python -m flaxae.evaluate runs/t5_vae_flow

`--config.task.codes_from=WORKDIR` names another T5-VAE.
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
        task=FlowConfig(codes_from="runs/t5_vae", width=512, depth=4, scan_unroll=4),
        # Of the data section a flow reads only these: its texts are those of codes_from.
        data=DataConfig(batch_size=256, seed=0, cache=".cache"),
        optim=OptimConfig(lr=1e-3, schedule=Schedule.COSINE, warmup=100, ema=0.995),
        log=LogConfig(every=50),
        eval=EvalConfig(every=500, splits=("dev",), sample_every=1000, num_samples=6),
        save=SaveConfig(every=500, keep=1),
        steps=STEPS,
    )
