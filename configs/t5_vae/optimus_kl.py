r"""A VAE as OPTIMUS trains it (Li et al. 2020), on a T5: the KL baseline.

    python train.py --config=configs/t5_vae/optimus_kl.py --workdir=runs/t5_vae_kl \
        --config.data.path=SHARDS --config.data.tokenizer=T5 --config.pretrained=T5
    python train.py --config=configs/t5_vae/optimus_kl.py:tiny --workdir=runs/t5_vae_kl_tiny

One Gaussian code of 768 numbers, beta annealed in cycles, a threshold of half a nat on the KL of
each dimension (OPTIMUS's lambda), and z both added to the decoder's embeddings and used as an
additional key and value in each of its layers. With one memory token, cross-attention adds a third
vector of z. T5 has no [CLS] token, so the states are averaged. `:tiny` has the sizes and data of
`baselines`. Not measured.
"""

from configs.t5_vae import baselines, wikipedia_base
from flaxae.config import Config
from flaxae.errors import ConfigError
from flaxae.models.t5_vae.bottlenecks import Bottleneck, LatentConfig
from flaxae.models.t5_vae.noise import NoiseConfig

PRESETS = (*wikipedia_base.PRESETS, "tiny")


def get_config(preset: str = "pretrained") -> Config:
    """Return the config of a preset: pretrained, scratch or tiny."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    if preset == "tiny":
        config = baselines.get_config()
        dim, positions = 64, True
    else:
        config, dim, positions = wikipedia_base.get_config(preset), 768, False
    task = config.task
    task.latent = LatentConfig(
        bottleneck=Bottleneck.MEAN,
        dim=dim,
        gaussian=True,
        memory_tokens=1,
        injection=False,
        embed_injection=True,
        kv_slot=True,
        positions=positions,
    )
    task.noise = NoiseConfig()
    task.mmd_weight, task.mmd_start, task.mmd_ramp = 0.0, 1.0, 0
    task.kl_weight, task.kl_cycles, task.kl_threshold = 1.0, 4, 0.5
    return config
