"""StraightBytes: five codings of the last 32 bytes, and the original with 128.

    python train.py --config=configs/byte_lm/straight.py:bits --workdir=runs/straight
    python -m flaxae.models.byte_lm.straight_report --workdir=runs/straight_report

The second command trains the presets of the ablation with equal context, hidden units and updates:
32 bytes, one hidden layer of 256 units, 4.0 M bytes in 7,808 steps of 32 streams of 16 bytes. Rows
of the runs: straight.jsonl.

original: 128 bytes as bits, hidden layers of 724, 512 and 362 units, 2,690,940 parameters, 256
predictions per step, learning rate 1e-4. Not measured.
"""

from typing import Any

from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    OptimConfig,
    SaveConfig,
    Schedule,
)
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.straight import Coding, StraightBytesConfig
from flaxae.models.byte_lm.streams import ByteDataConfig

_VARIANTS: dict[str, dict[str, Any]] = {
    "bits": {},
    "permuted": {"coding": Coding.PERMUTED},
    "learned": {"coding": Coding.LEARNED},
    "one_hot": {"coding": Coding.ONE_HOT},
    "zero_one": {"coding": Coding.ZERO_ONE},
    "bernoulli": {"bernoulli": True},
}
PRESETS = tuple(_VARIANTS)


def get_config(preset: str = "bits") -> Config:
    """Return the config of a variant of the ablation, or "original"."""
    if preset != "original" and preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}: there are {', '.join((*PRESETS, 'original'))}")
    config = Config(
        task=StraightBytesConfig(),
        data=ByteDataConfig(batch_size=32),
        optim=OptimConfig(lr=1e-3),
        log=LogConfig(every=488, tensorboard=False),
        eval=EvalConfig(splits=("dev", "test"), num_samples=0),
        save=SaveConfig(every=7808),
        steps=7808,
        steps_per_call=8,
    )
    if preset == "original":
        config.data.batch_size, config.optim.lr = 16, 1e-4
        config.optim.schedule = Schedule.CONSTANT
    else:
        config.task = StraightBytesConfig(context=32, widths=(256,), **_VARIANTS[preset])
    return config


def quick(config: Config) -> None:
    """Shorten a run, to test the program."""
    config.steps, config.save.every, config.log.every = 32, 32, 32
    config.eval.num_batches = 2
