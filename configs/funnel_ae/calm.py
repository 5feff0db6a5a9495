"""A CALM-style autoencoder of the source lines of the running Python's library: a baseline.

    python train.py --config=configs/funnel_ae/calm.py --workdir=runs/calm
    python train.py --config=configs/funnel_ae/calm.py:small --workdir=runs/calm_small

A latent of 32 numbers per chunk of 4 tokens: 256 numbers per text of 32 tokens, as many as a code
of python_lines.py has. The default has the original's widths (512, SwiGLU 1,280); `small` has those
of python_lines.py (128, 320), so that a step costs about as much.

Not measured.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig, Schedule
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.models.funnel_ae.calm import CALMConfig, CALMSizes

WIDTHS = {"full": (512, 1280), "small": (128, 320)}
STEPS = 3600


def get_config(preset: str = "full") -> Config:
    """Return the config of a preset: full or small."""
    if preset not in WIDTHS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(WIDTHS)}")
    width, inner = WIDTHS[preset]
    return Config(
        task=CALMConfig(calm=CALMSizes(dim=32, width=width, d_ff=inner), loss_chunks=8),
        data=TextDataConfig(
            name="python_lines", batch_size=64, max_length=32, num_buckets=1, vocab_size=4096
        ),
        optim=OptimConfig(lr=2e-3, schedule=Schedule.COSINE, warmup=60, b2=0.98, clip_norm=0.0),
        log=LogConfig(every=50),
        eval=EvalConfig(every=STEPS // 4, splits=("dev",), sample_every=STEPS // 4, num_samples=4),
        save=SaveConfig(every=STEPS // 8, keep=1),
        steps=STEPS,
    )
