"""A causal transformer over the latents of a trained T5-VAE: a learned prior for its samples.

    python train.py --config=configs/t5_vae/python_lines.py --workdir=runs/t5_vae
    python train.py --config=configs/t5_vae/autoregressive_prior.py --workdir=runs/t5_vae_latents
    python -m flaxae.evaluate runs/t5_vae_latents

`--config.task.codes_from=WORKDIR` names another text autoencoder. For a model with several latents
give `--config.task.pieces=0`: its latents are drawn one after the other. The demo's single latent
has no order of its own; it is cut into 16 pieces of 16 numbers.

Not measured.
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
from flaxae.models.t5_vae.prior.autoregressive import AutoregressiveConfig

STEPS = 3000


def get_config() -> Config:
    """Return the config."""
    return Config(
        task=AutoregressiveConfig(codes_from="runs/t5_vae", pieces=16, scan_unroll=3),
        data=DataConfig(batch_size=256),
        optim=OptimConfig(lr=1e-3, schedule=Schedule.COSINE, warmup=100, ema=0.995),
        log=LogConfig(every=50),
        eval=EvalConfig(every=500, splits=("dev",), sample_every=1000, num_samples=6),
        save=SaveConfig(every=500, keep=1),
        steps=STEPS,
    )
