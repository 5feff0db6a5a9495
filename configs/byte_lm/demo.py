"""A gated recurrent layer of 512 states on the library of the running Python.

    python train.py --config=configs/byte_lm/demo.py --workdir=runs/bytes
    python train.py --config=configs/byte_lm/demo.py --workdir=runs/mine --config.data.path=FILE

16.8 M numbers in the vectors of the last 2, 3, 4 and 6 bytes, and 1.2 M other parameters; 64
streams, gradients over 64 bytes, 7.2 MB of the 11.4 MB of training text. Seed 0: 1.647 bits per
byte of the test split and 1.806 of dev. Kneser-Ney with six context bytes that has read all of the
training text has 1.803 of test, xz 1.684 and bzip2 1.674. 29 core-minutes at 37 GFLOP/s per core,
on one core of a busy machine.
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
        task=CellConfig(states=512, hidden=256, bptt=UPDATE, update=UPDATE, ngrams=(2, 3, 4, 6)),
        data=ByteDataConfig(batch_size=STREAMS),
        optim=OptimConfig(lr=5e-3, warmup=100),
        log=LogConfig(every=64, tensorboard=False),
        eval=EvalConfig(every=880, num_samples=2),
        save=SaveConfig(every=880),
        steps=1760,
        steps_per_call=16,
    )
