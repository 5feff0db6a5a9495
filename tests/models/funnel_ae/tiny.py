"""Tiny configs of the toy and of a file of texts."""

from pathlib import Path
from typing import Any

import numpy as np

from flaxae.config import (
    Config,
    DataConfig,
    EvalConfig,
    LogConfig,
    MeshConfig,
    OptimConfig,
    SaveConfig,
    set_field,
    to_json,
)
from flaxae.data.config import TextDataConfig
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.models.funnel_ae.iid import IIDConfig
from flaxae.models.funnel_ae.latents import LatentConfig
from flaxae.models.funnel_ae.task import FunnelAEConfig, FunnelAETask
from flaxae.storage.checkpoint import Checkpointer
from flaxae.storage.workdir import write_json
from flaxae.training.layout import init_model

WORDS = ["import", "return", "self", "value", "= 0", "(x)", "if", "else:", "for", "in"]


def tiny_funnel(**options: Any) -> FunnelConfig:
    sizes = {"d_model": 16, "d_ff": 24, "num_heads": 2, "d_head": 8, "block_sizes": (1, 1)}
    return FunnelConfig(separate_cls=False, embedding_std=0.25, **(sizes | options))


def toy(**overrides: Any) -> Config:
    """Return a config of rows of 4 uniform ids; overrides have "__" for the dot."""
    task = IIDConfig(funnel=tiny_funnel(), latent=LatentConfig(dim=4), num_ids=6, length=4)
    return _with(Config(task=task, data=DataConfig(batch_size=16), steps=4), overrides)


def texts(folder: Path, **overrides: Any) -> Config:
    """Return a config of texts of up to 8 tokens in a file that this call writes."""
    rng = np.random.default_rng(0)
    lines = {" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(400)}
    (folder / "lines.txt").write_text("\n".join(sorted(lines)) + "\n")
    data = TextDataConfig(
        path=str(folder / "lines.txt"),
        batch_size=32,
        max_length=8,
        vocab_size=300,
        num_buckets=1,
        cache=str(folder / "cache"),
    )
    task = FunnelAEConfig(funnel=tiny_funnel(), latent=LatentConfig(dim=4, noise=0.1))
    return _with(Config(task=task, data=data, steps=4), overrides)


def _with(config: Config, overrides: dict[str, Any]) -> Config:
    config.optim = OptimConfig(lr=3e-3)
    config.log = LogConfig(every=1, tensorboard=False, progress=False)
    config.eval = EvalConfig(every=4, splits=("dev",), num_samples=2)
    config.save = SaveConfig(every=2)
    config.mesh = MeshConfig(fsdp=1)  # programs of one device are quick to compile
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config


def write_run(config: Config, workdir: Path) -> FunnelAETask:
    """Write the workdir of a run of one step, without training; return its task."""
    config.freeze()
    task: FunnelAETask = config.task.make(config)
    state = init_model(task, 0, 0)
    workdir.mkdir(parents=True)
    write_json(workdir / "config.json", to_json(config))
    task.save_assets(str(workdir))
    saver = Checkpointer(workdir, config.save)
    carry = {"once": state["once"], "stream": {}}
    saver.save(1, {"params": state["params"], "ema": {}, "carry": carry}, {}, wait=True)
    saver.close()
    return task
