"""The original Transformer-VAE's objective and bottleneck, kept to show their weaknesses.

    python train.py --config=configs/t5_vae/legacy_mmd.py --workdir=runs/t5_vae_legacy

As in Fraser-Greenlee's model: the states of the first positions are flattened, codes pass a tanh,
and the MMD has the kernel exp(-|x - y|^2 / d^2) and a weight that is a sigmoid of the step. Above d
= 32 that kernel hardly distinguishes a collapse from N(0, I) (tests/test_losses.py), and tanh codes
always have a variance below 1. The sizes are those of `baselines`. Not measured.
"""

from configs.t5_vae import baselines
from flaxae.config import Config
from flaxae.losses import Kernel
from flaxae.models.t5_vae.bottlenecks import Bottleneck, LatentConfig
from flaxae.text_autoencoder.kl import WeightSchedule

STEPS = 6000  # the sigmoid is one half at step 2,500


def get_config(dataset: str = "python_lines") -> Config:
    """Return the config of an embedded data set: python_lines or docstrings."""
    config = baselines.get_config(dataset)
    task = config.task
    task.latent = LatentConfig(
        bottleneck=Bottleneck.FIRST_N, first_n=16, tanh=True, dim=64, memory_tokens=8
    )
    task.mmd_weight, task.mmd_kernel = 1.0, Kernel.LEGACY
    task.mmd_schedule = WeightSchedule.SIGMOID
    config.steps = STEPS
    return config
