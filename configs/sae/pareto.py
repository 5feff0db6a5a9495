"""Dictionaries of SmolLM2-135M with several sparsities, in one program on one stream of states.

    python -m flaxae.sweep --config=configs/sae/pareto.py --workdir=runs/pareto
    python -m flaxae.sweep --config=configs/sae/pareto.py:standard --workdir=runs/pareto_standard

Presets: topk and batch_topk (8 to 128 active latents), standard, tied_bias and gated (weights of
the sparsity loss). Each is a run of `configs/sae/smollm2_topk.py`; the language model is read once
for all of them. It draws L0 against the fraction of unexplained variance.

Not measured.
"""

from pathlib import Path
from typing import Any

from configs.sae import smollm2_topk
from flaxae.config import Config
from flaxae.errors import ConfigError

ACTIVE = (8.0, 16.0, 32.0, 64.0, 128.0)
WEIGHTS = (1.0, 2.0, 5.0, 10.0, 20.0)
FIELDS = {
    "topk": ("task.k", ACTIVE),
    "batch_topk": ("task.k", ACTIVE),
    "standard": ("task.loss.sparsity", WEIGHTS),
    "tied_bias": ("task.loss.sparsity", WEIGHTS),
    "gated": ("task.loss.sparsity", WEIGHTS),
}


def get_config(architecture: str = "topk") -> Config:
    """Return the config of all lanes."""
    architecture = architecture or "topk"
    if architecture not in FIELDS:
        raise ConfigError(f"no preset {architecture!r}; there are {', '.join(FIELDS)}")
    config = smollm2_topk.get_config(architecture)
    if architecture == "topk":
        config.task.k_max = int(max(ACTIVE))  # pyright: ignore[reportAttributeAccessIssue]
    return config


def get_runs(architecture: str = "topk") -> list[dict[str, Any]]:
    """Return one run per sparsity."""
    field, values = FIELDS[architecture or "topk"]
    return [{field: value} for value in values]


def finish(rows: list[dict[str, Any]], workdir: Path, outdir: Path) -> str:
    """Draw the runs; return their table."""
    from flaxae.models.sae.figures import pareto

    files = pareto(rows, outdir / "pareto")
    return (outdir / "table.md").read_text() + "".join(f"{file}\n" for file in files)
