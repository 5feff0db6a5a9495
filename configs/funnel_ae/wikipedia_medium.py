r"""A Funnel AE of the sizes of funnel-transformer/medium-base, on Wikipedia sentences of 64 tokens.

    python -m flaxae.data.wikipedia --help            # builds the shards
    python train.py --config=configs/funnel_ae/wikipedia_medium.py:scratch \
        --workdir=runs/funnel_wikipedia --config.data.path=SHARDS
    python -m flaxae.tpu_compile --config=configs/funnel_ae/wikipedia_medium.py:scratch \
        --topology=v5e:2x4

Three blocks of 6, 3 and 3 layers, each layer of the last two applied twice: 64, 32 and 16 states of
768 numbers, and 16 latents of 48. `:scratch` trains a tokenizer; `:pretrained` starts the encoder's
blocks, their copies in the decoder, and the embeddings from
`--config.pretrained=DIR`, whose tokenizer `--config.data.tokenizer` names. The settings are chosen,
not tuned. Never trained. Compiled for a v5e-8: 6.88 of 16 GiB per chip; a step of 512 rows takes at
least 150 ms, bound by the memory, so its MFU is at most .16.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig, Schedule
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.models.funnel_ae.latents import Bottleneck, LatentConfig
from flaxae.models.funnel_ae.task import FunnelAEConfig

STEPS = 100_000
PRESETS = ("pretrained", "scratch")
MODEL = "funnel-transformer/medium-base"


def get_config(preset: str = "pretrained") -> Config:
    """Return the config of a preset: pretrained or scratch."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    scratch = preset == "scratch"
    return Config(
        task=FunnelAEConfig(
            funnel=FunnelConfig(
                vocab_size=30522,
                d_model=768,
                d_ff=3072,
                num_heads=12,
                d_head=64,
                block_sizes=(6, 3, 3),
                block_repeats=(1, 2, 2),
                separate_cls=False,
                embedding_std=0.02,
                dtype="bfloat16",
            ),
            latent=LatentConfig(
                dim=48, noise=0.05, kind=Bottleneck.MMD, weight=1.0, ramp=STEPS // 2
            ),
            mask_prob=0.1,
        ),
        data=TextDataConfig(
            path="data/wikipedia",
            tokenizer="" if scratch else MODEL,
            vocab_size=30522,
            batch_size=512,
            max_length=64,
            num_buckets=1,
        ),
        optim=OptimConfig(
            lr=3e-4,
            schedule=Schedule.COSINE,
            warmup=2000,
            b2=0.98,
            # Pretrained parameters learn more slowly than new ones.
            groups=() if scratch else ((r"^(encoder|embeddings)/", 0.1, 1.0),),
        ),
        log=LogConfig(every=100),
        eval=EvalConfig(every=5000, splits=("dev",), sample_every=5000, num_samples=8),
        save=SaveConfig(every=1000, keep=2),
        steps=STEPS,
        pretrained="" if scratch else MODEL,
    )
