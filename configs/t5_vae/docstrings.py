"""A T5-VAE of English sentences from the docstrings of the installed packages.

    python train.py --config=configs/t5_vae/docstrings.py --workdir=runs/t5_vae_docstrings
    python train.py --config=configs/t5_vae/docstrings.py:quick --workdir=runs/t5_vae_docstrings

The model of `python_lines` with room for 48 tokens. Not measured.
"""

from configs.t5_vae import python_lines
from flaxae.config import Config, copy_config


def get_config(preset: str = "full") -> Config:
    """Return the config of a preset: full or quick."""
    return copy_config(
        python_lines.get_config(preset), {"data.name": "docstrings", "data.max_length": 48}
    )
