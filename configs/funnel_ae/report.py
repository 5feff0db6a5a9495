"""A Funnel AE of uniform random tokens, and its variants: skips, bottlenecks, sizes, baselines.

    python train.py --config=configs/funnel_ae/report.py --workdir=runs/iid
    python -m flaxae.models.funnel_ae.report --workdir=runs/funnel_report

The config is iid.py's with the Haar upsampler; `VARIANTS` are overrides of it. The second command
trains each variant once per seed and writes one table, the claims with their verdicts and the
figures (`make report-funnel`). Preset `quick` has few steps and a small width.

0.36 M parameters, 1,500 steps of 64 rows: 100 s of CPU time per run at 37 GFLOP/s. The rows that
are measured so far are in report.jsonl in this folder: Haar separators, four seeds, have .0012
nats per token and an exact match of 1.0.
"""

import runpy
from pathlib import Path
from typing import Any

from flaxae.config import Config
from flaxae.errors import ConfigError

_skip: dict[str, Any] = {"task.skip.kind": "linear"}
VARIANTS: dict[str, dict[str, Any]] = {
    # Upsamplers and baselines.
    "haar": {},
    "ff_sep": {"task.upsampling": "ff_sep"},
    "linear": {"task.upsampling": "linear"},
    "interp": {"task.upsampling": "interp"},
    "repeat": {"task.upsampling": "repeat"},
    "random": {"task.latent.encoding": "random"},
    "frozen": {"task.latent.encoding": "frozen"},
    # Skips; outermost block first, whose skip has full length.
    "skip_linear": {**_skip, "task.skip.finish_by": (100, 200)},
    "skip_late": {**_skip, "task.skip.finish_by": (750, 1000)},
    "skip_half": {**_skip, "task.skip.start": 0.5, "task.skip.finish_by": (750, 1000)},
    "skip_sigmoid": {
        "task.skip.kind": "sigmoid",
        "task.skip.bias": (5.0, 5.0),
        "task.skip.slope": (0.01, 0.01),
    },
    "skip_residual": {"task.skip.kind": "residual"},
    # Other shapes of the model.
    "share": {"task.share": True},
    "pool_all": {"task.funnel.pool_q_only": False},
    "two_blocks": {"task.funnel.block_sizes": (1, 1)},
    "width_32": {
        "task.funnel.d_model": 32,
        "task.funnel.d_ff": 128,
        "task.funnel.d_head": 8,
        "task.funnel.embedding_std": 32**-0.5,
    },
    "width_128": {
        "task.funnel.d_model": 128,
        "task.funnel.d_ff": 512,
        "task.funnel.d_head": 32,
        "task.funnel.embedding_std": 128**-0.5,
    },
    "haar_detail": {"task.detail_weight": 0.1},
    # Bottlenecks: all codes have 128 numbers, as the states of the base have.
    "code_64": {"task.latent.dim": 64},
    "kl": {"task.latent.dim": 64, "task.latent.kind": "kl", "task.latent.weight": 0.1},
    "mmd": {"task.latent.dim": 64, "task.latent.kind": "mmd", "task.latent.weight": 1.0},
    "blocks": {"task.latent.dim": 32, "task.latent.block_dims": (4, 8)},
}
# Not in `quick`, where compiling takes most of the time: much like another variant.
FULL_ONLY = ("skip_linear", "skip_half", "width_32", "width_128", "haar_detail")
# Five seeds of the first group, three of the others.
MANY = ("haar", "ff_sep", "linear", "interp", "repeat", "random", "frozen")


def get_config(preset: str = "") -> Config:
    """Return the config that the variants override, for preset "" or "quick"."""
    if preset not in ("", "quick"):
        raise ConfigError(f"no preset {preset!r}: the only one is quick")
    config = runpy.run_path(str(Path(__file__).with_name("iid.py")))["get_config"]("haar")
    config.log.tensorboard = False
    config.eval.every = 100
    config.save.every = 1500
    if preset == "quick":
        config.steps, config.save.every, config.eval.every, config.log.every = 100, 100, 50, 10
        config.task.funnel.d_model, config.task.funnel.d_ff = 32, 64
        config.task.funnel.d_head, config.task.funnel.embedding_std = 8, 32**-0.5
    return config
