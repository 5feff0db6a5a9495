"""A small recurrent model of the bytes of the running Python's library."""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.cell import CellConfig
from flaxae.models.byte_lm.streams import ByteDataConfig

UPDATE, STREAMS = 64, 64  # bytes of each stream per step, and streams


def get_config(preset: str = "") -> Config:
    """Return the config of a preset."""
    if preset:
        raise ConfigError(f"no preset {preset!r}: this file has none")
    steps = 2944
    return Config(
        task=CellConfig(states=512, hidden=256, bptt=UPDATE, update=UPDATE),
        data=ByteDataConfig(batch_size=STREAMS),
        optim=OptimConfig(lr=3e-3, warmup=100),
        log=LogConfig(every=64, tensorboard=False),
        eval=EvalConfig(every=736, num_samples=2),
        save=SaveConfig(every=736),
        steps=steps,
        steps_per_call=16,
    )
