"""Seven objectives on equal terms: one small model, the same data, steps and learning rates.

    python train.py --config=configs/t5_vae/baselines.py:docstrings --workdir=runs/baselines/base
    python -m flaxae.models.t5_vae.baselines --workdir runs/baselines

The config itself is the autoencoder without a regulariser. The overrides in `VARIANTS` make it AE,
AE with noise, beta-VAE with free bits, MMD with the original's kernel, MMD with the IMQ kernel, and
the latter with a cycle loss or an interpolation critic. The two MMDs differ only in the kernel.
3.55 M parameters.

Measured: the first five on `python_lines` and `docstrings` with three seeds each, the others on
`python_lines` with seed 0. The tables are in docs/lab_notes/2026-11-26.md, the rows in
baselines.jsonl in this folder. A run with its evaluation took 4 to 8 minutes on one core, with two
runs in parallel on 2 cores, which partly did other work too.
"""

from typing import Any

from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    OptimConfig,
    SaveConfig,
    Schedule,
)
from flaxae.data import embedded
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.lm.t5.modeling import T5Config
from flaxae.models.t5_vae.bottlenecks import LatentConfig
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.nn.mlp import FeedForward

STEPS = 1000
_MMD: dict[str, Any] = {
    "task.mmd_weight": 10.0,
    "task.mmd_start": 0.1,
    "task.mmd_ramp": STEPS,
    "task.latent.noise_start": 0.05,
    "task.latent.noise_end": 0.15,
    "task.latent.noise_steps": STEPS,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "ae": {},
    "ae_noise": {
        "task.noise.mask": 0.1,
        "task.latent.noise_start": 0.05,
        "task.latent.noise_end": 0.15,
        "task.latent.noise_steps": STEPS,
    },
    "beta_vae": {
        "task.latent.gaussian": True,
        "task.kl_weight": 0.5,
        "task.kl_cycles": 4,
        "task.kl_free_bits": 0.25,
    },
    "legacy_mmd": {**_MMD, "task.mmd_kernel": "legacy"},
    "imq_mmd": {**_MMD, "task.mmd_kernel": "imq"},
    "imq_mmd_cycle": {**_MMD, "task.mmd_kernel": "imq", "task.cycle_weight": 0.1},
    "imq_mmd_critic": {**_MMD, "task.mmd_kernel": "imq", "task.critic_weight": 0.1},
}


def get_config(dataset: str = "python_lines") -> Config:
    """Return the config of an embedded data set: python_lines or docstrings."""
    if dataset not in embedded.NAMES:
        raise ConfigError(f"no preset {dataset!r}; there are {', '.join(embedded.NAMES)}")
    return Config(
        task=T5VAEConfig(
            t5=T5Config(
                d_model=128,
                d_ff=512,
                d_kv=32,
                num_heads=4,
                num_layers=2,
                num_decoder_layers=2,
                feed_forward=FeedForward.RELU,
                tie_embeddings=True,
                scan_unroll=2,
            ),
            latent=LatentConfig(dim=256, memory_tokens=8),
            mmd_weight=0.0,
            loss_chunks=4,
        ),
        data=TextDataConfig(
            name=dataset,
            batch_size=64,
            max_length=32,
            num_buckets=4,
            vocab_size=2048,
        ),
        optim=OptimConfig(
            lr=2e-3,
            schedule=Schedule.COSINE,
            warmup=60,
            b2=0.98,
            weight_decay=0.0,
            # As in python_lines.py: embeddings start larger than matrices, and T5's queries are not
            # scaled.
            groups=((r"(embedding|positions)/table$", 4.0, 0.0), (r"/q/kernel$", 0.144, 0.0)),
        ),
        log=LogConfig(every=50),
        eval=EvalConfig(splits=("dev",), num_samples=4),
        save=SaveConfig(every=500, keep=1),
        steps=STEPS,
    )
