r"""A T5-VAE from T5 v1.1 base on Wikipedia sentences of up to 64 tokens, to compare with OPTIMUS.

    python -m flaxae.data.wikipedia --help            # builds the shards
    python train.py --config=configs/t5_vae/wikipedia_base.py --workdir=runs/t5_vae_wikipedia \
        --config.data.path=SHARDS --config.data.tokenizer=T5 --config.pretrained=T5

T5 is a directory with a T5 v1.1 base (or Flan) and its spiece.model, or a Hub id. `:scratch` starts
from random weights.

A sentence has eight latents of 96 numbers, 768 in all, like OPTIMUS's larger code. Learned queries
read the encoder, because a mean would lose the order, and a map per position would not fit other
lengths. 260 M parameters, including those around z. The settings are chosen, not tuned. Never
trained; its step compiled for v5e-8 needs 4.52 of a chip's 16 GiB and accesses 44.568 GB, with the
additive channel 4.52 GiB and 44.558 GB (docs/lab_notes/2026-11-30.md).
"""

from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    OptimConfig,
    SaveConfig,
    Schedule,
)
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.lm.t5.sizes import t5_size
from flaxae.models.t5_vae.bottlenecks import Bottleneck, LatentConfig
from flaxae.models.t5_vae.noise import NoiseConfig
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.text_autoencoder.channel import Channel

STEPS = 100_000
PRESETS = ("pretrained", "scratch")


def sized(name: str, preset: str, *, batch_size: int, lr: float, remat: bool) -> Config:
    """Return the config of a T5 v1.1; wikipedia_large.py and wikipedia_3b.py call this too."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    t5 = t5_size(f"t5-v1_1-{name}", dtype="bfloat16", remat=remat)
    if not remat:
        # A scan writes and reads twice what the backward pass needs: on v5e-8 a step accessed
        # 57.2 GB instead of 44.7 (python -m flaxae.tpu_compile).
        t5.scan_unroll = t5.num_layers
    return Config(
        task=T5VAEConfig(
            t5=t5,
            latent=LatentConfig(
                bottleneck=Bottleneck.RESAMPLER,
                num_latents=8,
                dim=96,
                memory_tokens=16,
                # T5 has a relative position bias; absolute positions would disturb its weights.
                injection=False,
                positions=False,
                # At most 395 bits per sentence at the end: 768 log2(1 / .7).
                channel=Channel.PRESERVING,
                noise_start=0.1,
                noise_end=0.7,
                noise_steps=STEPS // 2,
                queue=1024,
            ),
            noise=NoiseConfig(mask=0.1, mask_id=32099),  # <extra_id_0>
            mmd_weight=10.0,
            mmd_start=0.1,
            mmd_ramp=STEPS // 2,
        ),
        data=TextDataConfig(
            path="data/wikipedia",
            tokenizer="" if preset == "scratch" else f"google/t5-v1_1-{name}",
            vocab_size=32000,
            batch_size=batch_size,
            max_length=64,
            num_buckets=4,
            bucket_edges=(32, 64),
        ),
        optim=OptimConfig(
            lr=lr,
            schedule=Schedule.COSINE,
            warmup=2000,
            b2=0.98,
            # Pretrained parameters learn more slowly than new ones.
            groups=() if preset == "scratch" else ((r"^t5/", 0.1, 1.0),),
        ),
        log=LogConfig(every=100),
        eval=EvalConfig(every=5000, splits=("dev",), sample_every=5000, num_samples=8),
        save=SaveConfig(every=1000, keep=2),
        steps=STEPS,
        pretrained="" if preset == "scratch" else f"google/t5-v1_1-{name}",
    )


def get_config(preset: str = "pretrained") -> Config:
    """Return the config of a preset: pretrained or scratch."""
    return sized("base", preset, batch_size=512, lr=1e-3, remat=False)
