"""The original Transformer-VAE's objective and bottleneck, kept to show what they do.

    python train.py --config=configs/t5_vae/legacy_mmd.py --workdir=runs/t5_vae_legacy

Fraser-Greenlee's: the first positions' states flattened, tanh codes, MMD with the kernel
exp(-|x - y|^2 / d^2) weighted by a sigmoid of the step. That kernel hardly tells a collapse from
N(0, I) above d = 32 (tests/test_losses.py), and tanh codes have a variance below 1 whatever it
does. The sizes are those of `baselines`. Not measured.
"""

from configs.t5_vae import baselines
from flaxae.config import Config
from flaxae.losses import Kernel
from flaxae.models.t5_vae.bottlenecks import Bottleneck, LatentConfig
from flaxae.text_autoencoder.kl import WeightSchedule

STEPS = 6000  # the sigmoid is at one half at step 2,500


def get_config(dataset: str = "python_lines") -> Config:
    config = baselines.get_config(dataset)
    task = config.task
    task.latent = LatentConfig(
        bottleneck=Bottleneck.FIRST_N, first_n=16, tanh=True, dim=64, memory_tokens=8
    )
    task.mmd_weight, task.mmd_kernel = 1.0, Kernel.LEGACY
    task.mmd_schedule = WeightSchedule.SIGMOID
    config.steps = STEPS
    return config
