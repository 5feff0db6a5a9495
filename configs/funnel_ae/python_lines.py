"""A Funnel AE of the source lines of the running Python's library.

    python train.py --config=configs/funnel_ae/python_lines.py --workdir=runs/funnel
    python train.py --config=configs/funnel_ae/python_lines.py:mini --workdir=runs/funnel_mini

The default reads up to 32 tokens and has codes of 4 x 64 numbers; `mini` reads up to 8 tokens in
three blocks (8, 4 and 2 states) and has codes of 2 x 64 numbers.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig, Schedule
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.models.funnel_ae.latents import LatentConfig
from flaxae.models.funnel_ae.task import FunnelAEConfig

# preset -> (tokens, layers of each block, width, steps)
PRESETS = {"default": (32, (1, 1, 1, 1), 192, 4000), "mini": (8, (1, 1, 1), 96, 2000)}


def get_config(preset: str = "default") -> Config:
    """Return the config of a preset: default or mini."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    length, blocks, width, steps = PRESETS[preset]
    return Config(
        task=FunnelAEConfig(
            funnel=FunnelConfig(
                d_model=width,
                d_ff=4 * width,
                num_heads=4,
                d_head=width // 4,
                block_sizes=blocks,
                separate_cls=False,
                embedding_std=width**-0.5,
            ),
            latent=LatentConfig(dim=64, noise=0.05),
        ),
        data=TextDataConfig(
            name="python_lines",
            batch_size=64,
            max_length=length,
            num_buckets=1,
            vocab_size=4096,
        ),
        optim=OptimConfig(lr=1e-3, schedule=Schedule.COSINE, warmup=200, b2=0.98, weight_decay=0.0),
        log=LogConfig(every=50),
        eval=EvalConfig(every=steps // 4, splits=("dev",), sample_every=steps // 4, num_samples=4),
        save=SaveConfig(every=steps // 4, keep=1),
        steps=steps,
    )
