"""A Funnel AE of uniform random tokens: does the code carry the row, with all skips at 0?

    python train.py --config=configs/funnel_ae/iid.py:haar --workdir=runs/iid_haar

The preset names the upsampler (haar, ff_sep, linear, interp, repeat) or a baseline (random,
frozen). 64 ids, rows of 8, three blocks of one layer: 8, 4 and 2 states of 64 numbers.
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
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.models.funnel_ae.iid import IIDConfig
from flaxae.models.funnel_ae.latents import Encoding, LatentConfig
from flaxae.models.funnel_ae.upsampling import Upsampling

BASELINES = {"random": Encoding.RANDOM, "frozen": Encoding.FROZEN}


def get_config(preset: str = "haar") -> Config:
    """Return the config of a preset."""
    kinds = {kind.value: kind for kind in Upsampling}
    if preset not in (*kinds, *BASELINES):
        raise ConfigError(f"no preset {preset!r}; there are {', '.join((*kinds, *BASELINES))}")
    encoding = BASELINES.get(preset, Encoding.TRAINED)
    return Config(
        task=IIDConfig(
            funnel=FunnelConfig(
                d_model=64,
                d_ff=256,
                num_heads=4,
                d_head=16,
                block_sizes=(1, 1, 1),
                separate_cls=False,
                embedding_std=0.125,
            ),
            latent=LatentConfig(dim=0, encoding=encoding),
            upsampling=kinds.get(preset, Upsampling.HAAR),
        ),
        data=DataConfig(batch_size=64),
        optim=OptimConfig(lr=1e-3, schedule=Schedule.CONSTANT, clip_norm=0.0),
        log=LogConfig(every=50),
        eval=EvalConfig(every=500, splits=("dev",)),
        save=SaveConfig(every=500, keep=1),
        steps=1500,
    )
