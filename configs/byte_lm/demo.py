"""A gated recurrent layer of 512 states on the library of the running Python.

    python train.py --config=configs/byte_lm/demo.py --workdir=runs/bytes
    python train.py --config=configs/byte_lm/demo.py --workdir=runs/mine --config.data.path=FILE

1.12 M parameters, 64 streams, gradients over 64 bytes, 12 MB: about 53 core-minutes at 37 GFLOP/s
per core by the first 128 steps. It was not trained to its end yet. Its learning rate was chosen by
256 steps (1 MB): after 96 of them the training loss was 1.49 nats per byte at .005 and 1.70 at
.002, with 2.310 bits per byte of dev at the end of .005.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.cell import CellConfig
from flaxae.models.byte_lm.streams import ByteDataConfig

UPDATE, STREAMS = 64, 64  # bytes of each stream per step, and streams


def get_config(preset: str = "") -> Config:
    """Return the config."""
    if preset:
        raise ConfigError(f"no preset {preset!r}: this file has none")
    return Config(
        task=CellConfig(states=512, hidden=256, bptt=UPDATE, update=UPDATE),
        data=ByteDataConfig(batch_size=STREAMS),
        optim=OptimConfig(lr=5e-3, warmup=100),
        log=LogConfig(every=64, tensorboard=False),
        eval=EvalConfig(every=736, num_samples=2),
        save=SaveConfig(every=736),
        steps=2944,
        steps_per_call=16,
    )
