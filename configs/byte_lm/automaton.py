"""AutomatonNN with R = 1 to 256 rows, and tanh RNNs of as many parameters, on the Python library.

    python train.py --config=configs/byte_lm/automaton.py --workdir=runs/automaton
    python -m flaxae.models.byte_lm.automaton_report --workdir=runs/automaton_report \
        --record=configs/byte_lm/automaton.jsonl

The first command trains 16 rows, preset `rnn` an RNN. The second trains all variants with three
seeds as lanes, and draws bits per byte against R. 4.2 M bytes: 8,192 steps of 32 streams of 16
bytes; no gradient passes more than 8 bytes back. 25,000 parameters at R = 1, 50,000 at R = 256.
Test split: 3.526 bits per byte at R = 1, 2.441 at R = 256 (docs/families/byte_lm.md).
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.automaton import AutomatonConfig
from flaxae.models.byte_lm.automaton_report import (
    ROWS,
    automaton_name,
    equal_rnn,
    rnn,
    rnn_name,
)
from flaxae.models.byte_lm.experiments import Variant
from flaxae.models.byte_lm.streams import ByteDataConfig

STEPS = {"full": 8192, "quick": 64, "rnn": 8192, "rnn_quick": 64}
RATES = {"full": 1e-2, "quick": 1e-2, "rnn": 3e-3, "rnn_quick": 3e-3}


def get_config(preset: str = "full") -> Config:
    """Return the config that the automata share, or the RNNs.

    Args:
        preset: "full" for automata, "rnn" for RNNs, "quick" and "rnn_quick" for a few steps.
    """
    if preset not in STEPS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(STEPS)}")
    steps, bptt = STEPS[preset], 8
    return Config(
        task=rnn(44, bptt) if preset.startswith("rnn") else AutomatonConfig(rows=16, bptt=bptt),
        data=ByteDataConfig(batch_size=32),
        optim=OptimConfig(lr=RATES[preset]),
        log=LogConfig(every=steps // 16, tensorboard=False, progress=False),
        eval=EvalConfig(
            splits=("dev", "test"), num_samples=0, num_batches=16 if "quick" in preset else 0
        ),
        save=SaveConfig(every=steps),
        steps=steps,
        steps_per_call=4 if "quick" in preset else 16,
    )


def variants(preset: str = "full") -> dict[str, Variant]:
    """Return the variants by name, those of get_config(preset)."""
    rows, seeds = ((1, 4), 2) if "quick" in preset else (ROWS, 3)
    if preset.startswith("rnn"):
        widths = dict.fromkeys(equal_rnn(r) for r in rows)
        return {rnn_name(n): Variant({"task.states": n}, seeds=seeds) for n in widths}
    found = {automaton_name(r): {"task.rows": r} for r in rows}
    if preset == "full":
        found |= {
            "R = 16, straight-through": {"task.straight_through": True},
            "R = 16, temperature 2": {"task.temperature": 2.0},
            "R = 16, hidden layer of 64": {"task.hidden": 64},
            "R = 16, 2 layers": {"task.layers": 2},
        }
    return {name: Variant(overrides, seeds=seeds) for name, overrides in found.items()}
