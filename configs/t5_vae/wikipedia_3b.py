r"""A T5-VAE from T5 v1.1 XL (2.8 G parameters) on Wikipedia sentences, for at least 32 chips.

    python train.py --config=configs/t5_vae/wikipedia_3b.py --workdir=runs/t5_vae_3b \
        --config.data.path=SHARDS --config.data.tokenizer=T5 --config.pretrained=T5

As `wikipedia_base`, with a larger T5 and recomputed blocks. Not measured.
"""

from configs.t5_vae import wikipedia_base
from flaxae.config import Config


def get_config(preset: str = "pretrained") -> Config:
    """Return the config of a preset: pretrained or scratch."""
    return wikipedia_base.sized("xl", preset, batch_size=512, lr=3e-4, remat=True)
