"""A T5-VAE of English sentences from the docstrings of the installed packages.

    python train.py --config=configs/t5_vae/docstrings.py --workdir=runs/t5_vae_docstrings
    python train.py --config=configs/t5_vae/docstrings.py:quick --workdir=runs/t5_vae_docstrings

The model of `python_lines:copy` with room for 48 tokens. Not measured.
"""

from configs.t5_vae import python_lines
from flaxae.config import Config, copy_config
from flaxae.errors import ConfigError

STEPS = {"full": 9600, "quick": 2000}


def get_config(preset: str = "full") -> Config:
    """Return the config of a preset: full or quick."""
    if preset not in STEPS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(STEPS)}")
    fields = {"data.name": "docstrings", "data.max_length": 48}
    return copy_config(python_lines.copy(STEPS[preset]), fields)
