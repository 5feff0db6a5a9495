r"""StraightBytes: codings of the last 32 bytes, and the original with 128.

    python train.py --config=configs/byte_lm/straight.py --workdir=runs/straight
    python -m flaxae.models.byte_lm.straight_report --workdir=runs/straight_report \
        --record=configs/byte_lm/straight.jsonl

The second command trains the variants of the ablation with equal context, hidden units and updates:
32 bytes, one hidden layer of 256 units, 4.0 M bytes in 7,808 steps of 32 streams of 16 bytes. Test
split, seed 0: 2.617 bits per byte with bits, 2.520 with learned codes (docs/families/byte_lm.md).

original: 128 bytes as bits, hidden layers of 724, 512 and 362 units, 2,690,940 parameters, 256
predictions per step, learning rate 1e-4. Not measured.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig, Schedule
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.experiments import Variant
from flaxae.models.byte_lm.straight import StraightBytesConfig
from flaxae.models.byte_lm.streams import ByteDataConfig

STEPS = {"full": 7808, "quick": 16, "original": 7808}


def get_config(preset: str = "full") -> Config:
    """Return the config that the variants share.

    Args:
        preset: "full", "quick" for a few steps, or "original" for the original's sizes.
    """
    if preset not in STEPS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(STEPS)}")
    steps, original = STEPS[preset], preset == "original"
    return Config(
        task=StraightBytesConfig() if original else StraightBytesConfig(context=32, widths=(256,)),
        data=ByteDataConfig(batch_size=16 if original else 32),
        optim=OptimConfig(
            lr=1e-4 if original else 3e-3,
            schedule=Schedule.CONSTANT if original else Schedule.COSINE,
        ),
        log=LogConfig(every=steps // 16, tensorboard=False, progress=False),
        eval=EvalConfig(
            splits=("dev", "test"), num_samples=0, num_batches=16 if preset == "quick" else 0
        ),
        save=SaveConfig(every=steps),
        steps=steps,
        steps_per_call=1 if preset == "quick" else 8,
    )


def variants(preset: str = "full") -> dict[str, Variant]:
    """Return the variants by name."""
    if preset == "quick":
        return {name: Variant({"task.coding": name}) for name in ("bits", "one_hot")}
    found = {
        "bits": {},
        "permuted bits": {"task.coding": "permuted"},
        "learned": {"task.coding": "learned"},
        "one-hot": {"task.coding": "one_hot"},
        "bits as 0 and 1": {"task.coding": "zero_one"},
        "bits to 8 independent bits": {"task.bernoulli": True},
    }
    # Another seed also draws another permutation.
    return {name: Variant(overrides, frozen=True) for name, overrides in found.items()}
