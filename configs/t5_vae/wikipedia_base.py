"""T5-VAE of T5 v1.1 base on Wikipedia sentences of at most 64 tokens: the OPTIMUS comparison.

    python -m flaxae.data.wikipedia --help            # builds the shards
    python train.py --config=configs/t5_vae/wikipedia_base.py --workdir=runs/t5_vae_wikipedia \\
        --config.data.path=SHARDS --config.data.tokenizer=T5 --config.pretrained=T5

T5: a directory with a T5 v1.1 base (or Flan) and its spiece.model, or a Hub id. `:scratch` starts
from random weights instead.

Eight latents of 96, 768 numbers a sentence, as OPTIMUS's larger code: learned queries read the
encoder, since a mean would throw order away and a map for each position would know no other
lengths. 260 M parameters with those around z. Settings are chosen, not tuned. Never trained; its
step compiled for v5e-8 needs 4.52 GiB of a chip's 16 (flaxae/tpu_compile/README.md).
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

STEPS = 100_000
PRESETS = ("pretrained", "scratch")


def sized(name: str, preset: str, *, batch_size: int, lr: float, remat: bool) -> Config:
    """The config of a T5 v1.1; its larger siblings' files call this too."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    t5 = t5_size(f"t5-v1_1-{name}", dtype="bfloat16", remat=remat)
    if not remat:
        # A scan writes and reads what it keeps for the backward pass twice: on v5e-8 57.2 GB a
        # step were accessed instead of 44.7 (python -m flaxae.tpu_compile).
        t5.scan_unroll = t5.num_layers
    return Config(
        task=T5VAEConfig(
            t5=t5,
            latent=LatentConfig(
                bottleneck=Bottleneck.RESAMPLER,
                num_latents=8,
                dim=96,
                memory_tokens=16,
                # T5 knows positions by its relative bias: absolute ones would disturb its weights.
                injection=False,
                positions=False,
                noise_start=0.05,
                noise_end=0.2,
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
            # What was pretrained moves slower than what is new.
            groups=() if preset == "scratch" else ((r"^t5/", 0.1, 1.0),),
        ),
        log=LogConfig(every=100),
        eval=EvalConfig(every=5000, splits=("dev",), sample_every=5000, num_samples=8),
        save=SaveConfig(every=1000, keep=2),
        steps=STEPS,
        pretrained="" if preset == "scratch" else f"google/t5-v1_1-{name}",
    )


def get_config(preset: str = "pretrained") -> Config:
    return sized("base", preset, batch_size=512, lr=1e-3, remat=False)
