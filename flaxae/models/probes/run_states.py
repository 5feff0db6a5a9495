"""The states of all prompts of a trained run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxae import peft
from flaxae.models.probes.collecting import collect, collect_pairs
from flaxae.models.probes.state_collector import RESIDUAL, Settings, StateCollector
from flaxae.models.probes.table import StateTable

PAIRS = "choice:"  # hook of a table whose first axis is the choice after the prompt, not the side
SPLITS = ("train", "dev", "test", "control", "ood")


@dataclasses.dataclass
class States:
    """The states of a run's prompts.

    Attributes:
        loaded: the run.
        collector: of its model.
        table: of all splits; prompts that ask for the truth, and for a lie.
        base: fingerprint of the base.
    """

    loaded: Any
    collector: StateCollector
    table: StateTable
    base: str


def default_layers(num_layers: int, count: int = 6) -> tuple[int, ...]:
    """Return evenly spaced layers, the last one among them."""
    found = np.unique(np.linspace(num_layers / count, num_layers, count).round().astype(int) - 1)
    return tuple(int(x) for x in found)


def collect_run(
    loaded: Any,
    folder: Path,
    *,
    hooks: Sequence[str] = ("resid_out", "mlp_post"),
    layers: Sequence[int] = (),
    also: Sequence[int] = (),
    pairs: bool = True,
    pair_hook: str = "",
    part: int = 128,
    rows: int = 16,
    share_prefix: bool = True,
) -> States:
    """Collect the states of a run's prompts, or read those that the folder has.

    Args:
        loaded: the run, see `flaxae.load`.
        folder: the store; runs with one base may share it.
        hooks: names of hidden states.
        layers: the layers; (): six of them.
        also: further layers, such as that of a dictionary.
        pairs: whether to collect the pairs of CCS too.
        pair_hook: hook of the pairs; "": the residual stream, or the first hook.
        part: prompts per file.
        rows: prompts per batch.
        share_prefix: read the beginning that prompts share once per file.
    """
    task, model = loaded.task, loaded.model
    chosen = tuple(sorted({*(layers or default_layers(model.config.num_layers)), *also}))
    settings = Settings(
        tuple(hooks), chosen, task.data_config.style(), task.limit, rows, share_prefix
    )
    collector = StateCollector(model, task.tokenizer, settings)
    base = peft.base_fingerprint(model)
    prompts, splits = [], []
    for split in SPLITS:
        own = task.prompts(task.splits[split])
        prompts += own
        splits += [split] * len(own)
    seed = loaded.config.seed
    table = collect(collector, prompts, splits, folder, base=base, seed=seed, part=part)
    if pairs:
        truthful = [i for i, p in enumerate(prompts) if not p.lie]
        chosen_prompts = [prompts[i] for i in truthful]
        kept = pair_hook or (RESIDUAL if RESIDUAL in hooks else hooks[0])
        found = collect_pairs(collector, chosen_prompts, folder, base=base, part=part, hooks=[kept])
        for hook, x in found.items():
            whole = np.full((2, len(prompts), *x.shape[2:]), np.nan, np.float32)
            whole[:, truthful] = np.moveaxis(x, 1, 0)
            table.states[f"{PAIRS}{hook}"] = whole
    table = dataclasses.replace(table, model=loaded.config.pretrained)
    return States(loaded, collector, table, base)
