"""Text autoencoders at several sizes of their codes: the runs of `make report-funnel-text`.

    python train.py --config=configs/funnel_ae/text_report.py:floats_256 --workdir=runs/floats_256
    python -m flaxae.models.funnel_ae.text_report --workdir=runs/funnel_text

Each preset is a run on lines of Python of up to 32 tokens: python_lines.py with 32 to 1,024 numbers
per text, its two baselines without a trained encoder, and the CALM-style autoencoder. All runs have
as many steps as the default takes in MINUTES on 2 idle cores at 74 GFLOP/s.

Results are the rows of text_report.jsonl in this folder.
"""

import runpy
from pathlib import Path
from typing import Any

from flaxae.config import Config, copy_config
from flaxae.errors import ConfigError

STEPS_PER_MINUTE = 240
MINUTES = 7

# Run -> file and preset, what differs from it, seeds.
RUNS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "floats_32": ("python_lines:default", {"task.latent.dim": 2}, (0,)),
    "floats_128": ("python_lines:default", {"task.latent.dim": 8}, (0,)),
    "floats_256": ("python_lines:default", {}, (0, 1, 2)),
    "floats_1024": ("python_lines:default", {"task.latent.dim": 64}, (0,)),
    "random": ("python_lines:default", {"task.latent.encoding": "random"}, (0,)),
    "frozen": ("python_lines:default", {"task.latent.encoding": "frozen"}, (0,)),
    "calm": ("calm:small", {}, (0,)),
}


def get_config(run: str = "floats_256", minutes: float = MINUTES) -> Config:
    """Return the config of a run.

    Args:
        run: its name.
        minutes: time of the training; see STEPS_PER_MINUTE.
    """
    if run not in RUNS:
        raise ConfigError(f"no run {run!r}; there are {', '.join(RUNS)}")
    source, overrides, _ = RUNS[run]
    file, preset = source.split(":")
    make = runpy.run_path(str(Path(__file__).with_name(f"{file}.py")))["get_config"]
    steps = max(1, round(minutes * STEPS_PER_MINUTE))
    last = {"steps": steps, "eval.every": steps, "eval.num_samples": 0}
    last["save.every"] = max(1, steps // 4)
    return copy_config(make(preset), {**last, **overrides})
