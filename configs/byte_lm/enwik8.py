"""Three recurrent layers of 1,024 states on enwik8, for a TPU v5e with 8 chips.

    python train.py --config=configs/byte_lm/enwik8.py --workdir=runs/x --config.data.path=enwik8
    python -m flaxae.tpu_compile --config=configs/byte_lm/enwik8.py --topology=v5e:2x4

128 streams per chip; the file's first 90 MB are for training, the next 5 MB are the dev split, the
last 5 MB the test split. Gradients stop after 64 bytes. 19.4 M parameters. Compiled for v5e-8: .70
GiB of 16 per chip, a step of 65,536 bytes takes at least 25 ms, bound by the HBM. Never trained.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.cell import CellConfig
from flaxae.models.byte_lm.streams import ByteDataConfig

UPDATE, STREAMS, EPOCHS = 64, 8 * 128, 10
STEPS = EPOCHS * 90_000_000 // (UPDATE * STREAMS) // 16 * 16


def get_config(preset: str = "") -> Config:
    """Return the config."""
    if preset:
        raise ConfigError(f"no preset {preset!r}: this file has none")
    return Config(
        task=CellConfig(layers=3, states=1024, hidden=1024, bptt=UPDATE, update=UPDATE),
        data=ByteDataConfig(path="enwik8", batch_size=STREAMS),
        optim=OptimConfig(lr=2e-3, warmup=500),
        log=LogConfig(every=96),
        eval=EvalConfig(every=960),
        save=SaveConfig(every=960),
        steps=STEPS,
        steps_per_call=16,
    )
