"""The grid of recurrent byte models: 648 cells, or a balanced ninth of them.

    python -m flaxae.models.byte_lm.grid_report --workdir=runs/byte_grid      # figures and verdicts
    python -m flaxae.sweep --config=configs/byte_lm/grid.py --workdir=runs/byte_cells   # a table
    python -m flaxae.sweep --config=configs/byte_lm/grid.py:accelerator --workdir=runs/byte_large
    python train.py --config=configs/byte_lm/grid.py --workdir=runs/cell --config.task.bptt=4

Presets: "" has 72 cells (24 whole triples of k) as lanes of 12 programs, "all" the 648 as lanes of
54, each cell on 983 kB of 16 streams; "accelerator" all cells on 10.5 MB of 128 streams, only by
`flaxae.sweep`, since the report trains on the CPU; "quick" 24 small cells on 66 kB. The report's
option --window also trains small cells whose gradients reach k - 1 bytes back from each byte, and
--small 126 more cells of 32 states, so that most differ from another in one factor alone. The
learning rate is constant, so that a shorter run is the beginning of a longer one; evaluations use
an average of the parameters over a tenth of the run so far. One cell (1 layer, gated, N = H = 32, k
= 2, seed 0, a part of the dev split) has 3.11, 3.01 and 3.09 bits per byte after 1 MB with learning
rates of 1e-3, 3e-3 and 1e-2, without the average; it takes 7 seconds of one core at 31 GFLOP/s.
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
from flaxae.models.byte_lm.grid import GridConfig
from flaxae.models.byte_lm.grid_cells import Cell, all_cells, fraction, quick
from flaxae.models.byte_lm.streams import ByteDataConfig

CELLS = {"": fraction, "all": all_cells, "accelerator": all_cells, "quick": quick}
_STEPS = {"": 3840, "all": 3840, "accelerator": 5120, "quick": 256}


def get_config(preset: str = "") -> Config:
    """Return the config that the cells of a preset override."""
    _check(preset)
    steps = _STEPS[preset]
    return Config(
        task=GridConfig(),
        data=ByteDataConfig(batch_size=128 if preset == "accelerator" else 16),
        optim=OptimConfig(lr=3e-3, schedule=Schedule.CONSTANT, ema=0.9995),
        log=LogConfig(every=steps // 16, tensorboard=False),
        # 12 batches of 32 parts or more, 8 of which only warm up: a learning curve.
        eval=EvalConfig(
            every=steps // 8,
            splits=("dev",),
            num_batches=9 if preset == "quick" else 12,
            num_samples=0,
        ),
        save=SaveConfig(every=steps),
        steps=steps,
        steps_per_call=16,
    )


def get_cells(preset: str = "") -> list[Cell]:
    """Return the cells of a preset."""
    _check(preset)
    return CELLS[preset]()


def get_runs(preset: str = "") -> list[dict[str, Any]]:
    """Return the overrides of each cell of a preset."""
    return [cell.overrides for cell in get_cells(preset)]


def _check(preset: str) -> None:
    if preset not in CELLS:
        raise ConfigError(f"no preset {preset!r}: there are {', '.join(filter(None, CELLS))}")
