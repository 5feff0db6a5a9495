"""A config small enough for tests."""

from typing import Any

from flaxae.config import (
    Config,
    DataConfig,
    EvalConfig,
    LogConfig,
    MeshConfig,
    OptimConfig,
    SaveConfig,
    set_field,
)
from flaxae.models.looped.modeling import ModelConfig
from flaxae.models.looped.task import LoopedConfig


def tiny_config(**overrides: Any) -> Config:
    """Return a config with overrides: dotted fields, with "__" for the dot."""
    config = Config(
        task=LoopedConfig(
            model=ModelConfig(dims=2, points=4, width=8, num_heads=2),
            loops=3,
            grad_loops=2,
            eval_loops=5,
            eval_batches=2,
        ),
        data=DataConfig(batch_size=16),
        mesh=MeshConfig(fsdp=1),
        optim=OptimConfig(lr=3e-3, clip_norm=0.0),
        log=LogConfig(every=2, tensorboard=False, progress=False),
        eval=EvalConfig(splits=("dev",)),
        save=SaveConfig(every=4),
        steps=4,
    )
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config
