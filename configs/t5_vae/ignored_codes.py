"""A decoder that ignores its code: the reference that samples are to be read beside.

    python train.py --config=configs/t5_vae/ignored_codes.py --workdir=runs/t5_vae_ignored
    python -m flaxae.evaluate runs/t5_vae_ignored

The demo's model with a Gaussian code whose KL to N(0, I) weighs so much that it says nothing
(posterior collapse, on purpose): what is left is a language model of lines of the same size.
"""

from configs.t5_vae import python_lines
from flaxae.config import Config, copy_config

STEPS = 2000


def get_config() -> Config:
    return copy_config(
        python_lines.get_config(),
        {
            "task.latent.gaussian": True,
            "task.latent.noise_start": 0.0,
            "task.latent.noise_end": 0.0,
            "task.latent.noise_steps": 0,
            "task.mmd_weight": 0.0,
            "task.mmd_ramp": 0,
            "task.kl_weight": 100.0,
            "steps": STEPS,
            "eval.every": STEPS // 4,
            "eval.sample_every": STEPS // 4,
            "save.every": STEPS // 4,
        },
    )
