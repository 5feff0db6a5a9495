"""A config of a language model small enough for tests, and its text file."""

from pathlib import Path
from typing import Any

from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    MeshConfig,
    OptimConfig,
    SaveConfig,
    set_field,
)
from flaxae.data.config import TextDataConfig
from flaxae.models.looped.text.modeling import TextModelConfig
from flaxae.models.looped.text.task import TextConfig


def tiny_config(folder: Path, **overrides: Any) -> Config:
    """Return a config with overrides: dotted fields, with "__" for the dot."""
    path = folder / "lines.txt"
    path.write_text("".join(f"x{i % 7} = {i}\n" for i in range(140)))  # two lines of dev
    config = Config(
        task=TextConfig(
            model=TextModelConfig(width=8, num_heads=2), loops=3, grad_loops=2, report_loops=(1, 4)
        ),
        data=TextDataConfig(path=str(path), batch_size=8, max_length=12, prefetch=0),
        mesh=MeshConfig(fsdp=1),
        optim=OptimConfig(lr=3e-3),
        log=LogConfig(every=2, tensorboard=False, progress=False),
        eval=EvalConfig(splits=("dev",), num_samples=2),
        save=SaveConfig(every=2),
        steps=4,
    )
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config
