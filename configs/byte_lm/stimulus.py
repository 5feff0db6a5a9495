r"""Variants of the Stimulus network on the library of the running Python.

    python -m flaxae.models.byte_lm.stimulus_report --workdir=runs/stimulus \
        --record=configs/byte_lm/stimulus.jsonl

The default is one layer of 64 units whose exact gradient is carried along the streams:

    python train.py --config=configs/byte_lm/stimulus.py --workdir=runs/stimulus_one

64 units, 1,024 steps of 32 x 16 bytes (0.5 MB). Test split, decay .95, mean of three seeds: 4.135
bits per byte with the exact gradient, 4.189 with k = 1, 4.207 with frozen units; 3.532 with a
learned decay of each unit (seed 0). docs/families/byte_lm.md has all results.
"""

from typing import Any

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.experiments import Variant, grid
from flaxae.models.byte_lm.stimulus import StimulusConfig
from flaxae.models.byte_lm.streams import ByteDataConfig

STEPS = {"full": 1024, "quick": 64}
SLOW_UNITS = (("embed|centres", 0.1, 1.0),)  # their learning rate is a tenth of the readout's


def get_config(preset: str = "full") -> Config:
    """Return the config that all variants share.

    Args:
        preset: "full", or "quick" for a few steps.
    """
    if preset not in STEPS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(STEPS)}")
    steps = STEPS[preset]
    return Config(
        task=StimulusConfig(states=64, update=16),
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


def variants(preset: str = "full") -> dict[str, Variant]:
    """Return the variants by name; the decay is .95 if a name does not say otherwise."""
    quick = preset == "quick"
    found: dict[str, Variant] = {}

    def add(
        name: str,
        learning: str,
        seeds: int = 1,
        rates: tuple[float, ...] = (1e-2, 3e-2),
        **fields: Any,
    ) -> None:
        overrides: dict[str, Any] = {"task.learning": learning}
        if learning != "frozen":
            overrides["optim.groups"] = SLOW_UNITS
        overrides |= {k.replace("__", "."): v for k, v in fields.items()}
        rates = rates[:1] if quick else rates
        seeds, frozen = 1 if quick else seeds, learning == "frozen"
        found[name] = Variant(overrides, grid(optim__lr=rates), seeds, frozen)

    high = (1e-2, 3e-2, 1e-1, 3e-3)
    short: dict[str, Any] = {"task__decay": 0.7}
    add("frozen", "frozen", 3, high)
    add("frozen, .7", "frozen", 3, high, **short)
    add("exact", "trace", 3)
    add("exact, .7", "trace", 3, **short)
    one: dict[str, Any] = {"rates": (3e-2,)}
    add("k = 1", "truncated", 3, task__bptt=1)
    add("k = 2", "truncated", 1, task__bptt=2, **one)
    add("k = 4", "truncated", 1, task__bptt=4, **one)
    add("k = 16", "truncated", 3, task__bptt=16)
    add("k = 1, .7", "truncated", 3, task__bptt=1, **short)
    add("k = 16, .7", "truncated", 1, task__bptt=16, **short, **one)
    add("decay of each unit, exact", "trace", 1, task__decay_kind="unit", **one)
    if quick:
        return found
    # The same learning rate for the units and the readout.
    plain: dict[str, Any] = {"optim__groups": (), "rates": (1e-2, 3e-2), **short}
    add("exact, fast units, .7", "trace", 1, **plain)
    add("k = 1, fast units, .7", "truncated", 1, task__bptt=1, **plain)
    one_hot: dict[str, Any] = {"task__one_hot": True, "task__states": 256}
    add("one-hot bytes", "frozen", 1, (3e-2,), **one_hot)
    add("one-hot bytes, .7", "frozen", 1, (3e-2,), **one_hot, **short)
    add("decay of each unit, k = 1", "truncated", 1, task__decay_kind="unit", task__bptt=1, **one)
    add("shared decay, exact", "trace", 1, task__decay_kind="shared", **one)
    # As many bytes per step, from fewer streams.
    long: dict[str, Any] = {"task__update": 128, "data__batch_size": 4, **one}
    add("full backpropagation, steps of 128 bytes", "truncated", 1, task__bptt=128, **long)
    add("k = 1, steps of 128 bytes", "truncated", 1, task__bptt=1, **long)
    add("exact, steps of 128 bytes", "trace", 1, **long)
    add("exact, stored state", "trace", 1, task__stored_state=True, **one)
    first: dict[str, Any] = {"task__first_version": True, **one}
    add("first version, frozen", "frozen", 1, **first)
    first["task__decay_kind"] = "unit"
    add("first version, k = 1", "truncated", 1, task__bptt=1, **first)
    add("first version, exact", "trace", 1, **first)
    two: dict[str, Any] = {"task__layers": 2, **short, **one}
    add("two layers, .7, frozen", "frozen", 1, **two)
    add("two layers, .7, k = 1", "truncated", 1, task__bptt=1, **two)
    add("two layers, .7, exact", "trace", 1, **two)
    return found
