"""The demo's decoder without codes: what its samples and losses are measured against.

    python train.py --config=configs/t5_vae/ignored_codes.py --workdir=runs/t5_vae_ignored

The decoder, its data and its steps are those of configs/t5_vae/python_lines.py, but it reads 1 for
every code (`task.latent.ignored`): a language model of lines. The encoder is there, as small as it
can be, and learns nothing. Texts are drawn, not chosen greedily, which would give one line only:

    vae.sample(1000, decode_temperature=1.0)

Not measured yet.
"""

from configs.t5_vae import python_lines
from flaxae.config import Config, copy_config


def get_config(preset: str = "full") -> Config:
    return copy_config(
        python_lines.get_config(preset),
        {
            "task.latent.ignored": True,
            "task.latent.dim": 1,
            "task.latent.noise_start": 0.0,
            "task.latent.noise_end": 0.0,
            "task.t5.num_layers": 1,
            "task.mmd_weight": 0.0,
        },
    )
