r"""Successive autoencoders beside reservoirs, on the library of the running Python.

    python -m flaxae.models.byte_lm.successive_report --workdir=runs/successive \
        --record=configs/byte_lm/successive.jsonl

The default is one autoencoder of 128 states with noise and normalisation:

    python train.py --config=configs/byte_lm/successive.py --workdir=runs/successive_one

128 states, 1,024 steps of 32 x 16 bytes (0.5 MB). Seed 0: 3.088 bits per byte of the test split, a
reservoir 3.011. Capacity for independent bytes: 65 if trained on such bytes, 51 on text, and 126 of
an orthogonal reservoir. docs/families/byte_lm.md has all results.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.experiments import Variant, grid
from flaxae.models.byte_lm.reservoir import ReservoirConfig
from flaxae.models.byte_lm.streams import ByteDataConfig
from flaxae.models.byte_lm.successive import SuccessiveConfig
from flaxae.models.byte_lm.task import ByteLMConfig

STEPS = {"full": 1024, "quick": 64}
UNIFORM = ".cache/uniform_bytes.bin"  # independent bytes, which the report writes
SCALES, RADII = (0.01, 0.03, 0.1, 0.3, 1.0), (0.9, 1.0)  # of the untrained reservoirs
TRAINED = (0.1, 0.3, 1.0)  # scales of reservoirs whose readout is trained


def get_config(preset: str = "full", task: ByteLMConfig | None = None) -> Config:
    """Return the config that all variants share.

    Args:
        preset: "full", or "quick" for a few steps.
        task: the network; None: the autoencoder.
    """
    if preset not in STEPS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(STEPS)}")
    steps = STEPS[preset]
    return Config(
        task=task or SuccessiveConfig(states=128, hidden=128),
        data=ByteDataConfig(batch_size=32),
        optim=OptimConfig(lr=3e-3),
        log=LogConfig(every=steps // 4, tensorboard=False, progress=False),
        eval=EvalConfig(
            splits=("dev", "test"), num_samples=0, num_batches=16 if preset == "quick" else 0
        ),
        save=SaveConfig(every=steps),
        steps=steps,
        steps_per_call=16,
    )


def reservoir(preset: str = "full") -> Config:
    """Return the config of the reservoirs."""
    return get_config(preset, ReservoirConfig(states=128))


def autoencoders(preset: str = "full") -> dict[str, Variant]:
    """Return the variants of the autoencoder; on uniform bytes only the memory is of interest."""
    kinds = {
        "without noise": {"task.noise": 0.0, "task.normalize": False},
        "noise .1": {"task.noise": 0.1, "task.normalize": False},
        "noise .1, norm": {"task.noise": 0.1, "task.normalize": True},
    }
    kinds = {"noise .1, norm": kinds["noise .1, norm"]} if preset == "quick" else kinds
    return {
        f"autoencoder of uniform bytes, {name}": Variant(changes | {"data.path": UNIFORM})
        for name, changes in kinds.items()
    } | {f"autoencoder, {name}": Variant(changes) for name, changes in kinds.items()}


def reservoirs(preset: str = "full") -> dict[str, Variant]:
    """Return the reservoirs whose readout is trained on text."""
    candidates = ({},) if preset == "quick" else grid(task__scale=TRAINED, task__radius=(0.95,))
    return {"reservoir": Variant({}, candidates, frozen=True)}
