r"""A LoRA in float32 on a frozen Phi-2 (2.78 G parameters) in bfloat16, for four or more chips.

    python train.py --config=configs/causal_lm/phi2_lora.py --workdir=runs/phi2_lora \
        --config.pretrained=PHI2
    python -m flaxae.tpu_compile --config=configs/causal_lm/phi2_lora.py:scratch --topology=v5e:2x2

PHI2 is a directory with the model, or a Hub id. The preset `:scratch` has the model's shapes and
needs no files.

18.4 M trained parameters (rank 16 on q, v, fc1 and fc2). Never trained. Compiled for v5e-4 (jax
0.10.2, libtpu 0.0.42.1, --effort=-1) with 64 rows of 512 tokens and a target at every position: it
needs 5.33 of a chip's 16 GiB. Per chip and step it computes 120 TFLOP, 1.32 times the task's count
because blocks are computed twice; it accesses 637 GB, which bound the step (MFU .59 at best), and
sends 8.0 GB, the layers of the base one by one and twice, so that the whole base is never in one
place. It takes 32 s to compile.
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
from flaxae.models.causal_lm.task import AdapterOptions, CausalLMConfig

STEPS = 1000
PRESETS = ("pretrained", "scratch")


def sharded(sizes: str, hub: str, preset: str, *, batch_size: int, lr: float) -> Config:
    """Return a LoRA on a base that is split over the chips; llama7b_lora.py calls this too."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    scratch = preset == "scratch"
    return Config(
        task=CausalLMConfig(
            adapter=AdapterOptions(r=16, alpha=32.0, dropout=0.05),
            weights="bfloat16",
            dtype="bfloat16",
            # Without remat, temporaries take 64 GiB on each of four chips.
            remat=True,
            sizes=sizes if scratch else "",
        ),
        data=TextDataConfig(name="signatures", batch_size=batch_size, max_length=512),
        optim=OptimConfig(
            lr=lr, schedule=Schedule.COSINE, warmup=50, final_lr=0.1, b2=0.99, weight_decay=0.0
        ),
        log=LogConfig(every=10),
        eval=EvalConfig(every=200, splits=("dev",), num_samples=0),
        save=SaveConfig(every=200, keep=2),
        pretrained="" if scratch else hub,
        steps=STEPS,
    )


def get_config(preset: str = "pretrained") -> Config:
    """Return the config of a preset: pretrained or scratch."""
    return sharded("phi-2", "microsoft/phi-2", preset, batch_size=64, lr=2e-4)
