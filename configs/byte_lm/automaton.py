"""AutomatonNN with R = 1 to 256 rows, and tanh RNNs of as many parameters, on the Python library.

    python train.py --config=configs/byte_lm/automaton.py:rows_64 --workdir=runs/automaton
    python -m flaxae.models.byte_lm.automaton_report --workdir=runs/automaton_report

The second command trains every preset with three seeds as lanes, and writes bits per byte against R
with intervals. 4.2 M bytes of training: 8,192 steps of 32 streams of 16 bytes; no gradient passes
8 bytes back. 25,000 parameters at R = 1, 50,000 at R = 256. Rows of the runs: automaton.jsonl.
"""

from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    OptimConfig,
    SaveConfig,
)
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.automaton import AutomatonConfig
from flaxae.models.byte_lm.automaton_report import ROWS, equal_rnn
from flaxae.models.byte_lm.grid import GridConfig, Readout
from flaxae.models.byte_lm.recurrence import Dynamic
from flaxae.models.byte_lm.streams import ByteDataConfig
from flaxae.models.byte_lm.task import ByteLMConfig

BPTT = 8
_OPTIONS = {
    "hard_16": {"straight_through": True},
    "warm_16": {"temperature": 2.0},
    "hidden_16": {"hidden": 64},
    "layers_16": {"layers": 2},
}
PRESETS = (
    *(f"rows_{rows}" for rows in ROWS),
    *dict.fromkeys(equal_rnn(rows) for rows in ROWS),
    *_OPTIONS,
)


def get_config(preset: str = "rows_16") -> Config:
    """Return the config of R rows ("rows_R"), an RNN of N states ("rnn_N"), or an option."""
    return Config(
        task=_task(preset),
        data=ByteDataConfig(batch_size=32),
        optim=OptimConfig(lr=1e-2),
        log=LogConfig(every=512, tensorboard=False),
        eval=EvalConfig(splits=("dev", "test"), num_samples=0),
        save=SaveConfig(every=8192),
        steps=8192,
        steps_per_call=16,
    )


def quick(config: Config) -> None:
    """Shorten a run, to test the program."""
    config.steps, config.save.every, config.log.every = 64, 64, 64
    config.eval.num_batches = 2


def _task(preset: str) -> ByteLMConfig:
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}: there are {', '.join(PRESETS)}")
    kind, number = preset.split("_")
    if kind == "rnn":
        states = int(number)
        return GridConfig(states=states, dynamic=Dynamic.TANH, readout=Readout.STATE, bptt=BPTT)
    return AutomatonConfig(rows=int(number), bptt=BPTT, **_OPTIONS.get(preset, {}))
