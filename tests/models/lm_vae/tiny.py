"""An LM-VAE on a random Llama of toy size."""

import numpy as np

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig, set_field
from flaxae.data.config import TextDataConfig
from flaxae.models.lm_vae.modeling import LatentConfig
from flaxae.models.lm_vae.task import LMVAEConfig
from flaxae.peft.task import AdapterOptions
from tests.models.causal_lm.tiny import base

WORDS = ("red", "blue", "old", "new", "cat", "dog", "runs", "eats")
LENGTH = 24


def texts(count=120):
    rng = np.random.default_rng(0)
    return list(dict.fromkeys(" ".join(rng.choice(WORDS, 1 + i % 4)) for i in range(count)))


def tiny_config(folder, **overrides):
    """Make a config; overrides are dotted fields with "__" for the dot."""
    folder.mkdir(exist_ok=True)
    path = folder / "texts.txt"
    path.write_text("".join(f"{WORDS.index(t.split()[0]) % 2}\t{t}\n" for t in texts()))
    config = Config(
        task=LMVAEConfig(
            adapter=AdapterOptions(targets=("all-linear",)),
            latent=LatentConfig(dim=8, layers=(0, 1), terms=2, hidden=6, memory_tokens=3),
        ),
        data=TextDataConfig(
            path=str(path),
            labels=True,
            batch_size=8,
            max_length=LENGTH,
            num_buckets=2,
            cache=str(folder / "cache"),
        ),
        optim=OptimConfig(lr=1e-2, ema=0.5),
        log=LogConfig(every=1, tensorboard=False, progress=False),
        eval=EvalConfig(every=4, splits=("dev",), num_samples=2),
        save=SaveConfig(every=2),
        pretrained=str(base(folder / "base")),
        steps=4,
    )
    config.mesh.fsdp = 1
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config
