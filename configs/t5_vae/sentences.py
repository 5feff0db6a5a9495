r"""A T5-VAE of labelled English sentences, on the channel that keeps the second moment.

    pip install --no-deps sae-probes
    python train.py --config=configs/t5_vae/sentences.py --workdir=runs/t5_vae_sentences
    python train.py --config=configs/t5_vae/sentences.py:quick --workdir=runs/t5_vae_sentences

The T5 of `python_lines` (6.4 M parameters) for texts of up to 32 tokens, with labels, so that the
explorer's map is coloured by them and arithmetic of attributes can be measured:

    python -m flaxae.text_autoencoder.evaluation.attribute_report runs/t5_vae_sentences

One token in ten of the encoder's input is masked, and the sigma of the channel rises from .2 to .6.
Not measured.
"""

from configs.t5_vae import python_lines
from flaxae.config import Config, copy_config
from flaxae.errors import ConfigError

STEPS = {"full": 9600, "quick": 1500}


def get_config(preset: str = "full") -> Config:
    """Return the config of a preset: full or quick."""
    if preset not in STEPS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(STEPS)}")
    steps = STEPS[preset]
    return copy_config(
        python_lines.copy(steps),
        {
            "data.name": "sentences",
            "data.labels": True,
            "task.latent.channel": "preserving",
            "task.latent.noise_start": 0.2,
            "task.latent.noise_end": 0.6,
            "task.latent.noise_steps": steps,
            "task.noise.mask": 0.1,
            "task.mmd_ramp": steps,
            "eval.every": steps // 3,
            "eval.sample_every": steps // 3,
            "save.every": 100,
            "steps": steps,
        },
    )
