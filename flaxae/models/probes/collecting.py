"""Stored states of prompts: one file per part of the prompts and side, base or adapter.

The base's states are stored once per prompt and reused by every adapter. Each side of a part is
computed as a whole, in batches of its own, so that neither an interruption nor the order of
adapters changes a number.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.models.probes.prompts import Prompt
from flaxae.models.probes.state_collector import StateCollector, adapter_hash
from flaxae.models.probes.store import BASE, COLUMNS, Part, read_part
from flaxae.models.probes.table import StateTable

PART = 128  # prompts per file


def collect(
    collector: StateCollector,
    prompts: Sequence[Prompt],
    splits: Sequence[str],
    folder: Path,
    *,
    base: str,
    seed: int = 0,
    part: int = PART,
) -> StateTable:
    """Collect the states of prompts, or read those that the folder has already.

    Args:
        collector: of the model with its adapter.
        prompts: the prompts.
        splits: split of each prompt's example.
        folder: the store.
        base: fingerprint of the base model.
        seed: seed of the run that trained the adapter.
        part: prompts per file.

    Returns:
        The table, in the order of the prompts.
    """
    adapter = adapter_hash(collector.model) or BASE
    found: dict[str, list[Part]] = {BASE: [], adapter: []}
    order: list[int] = []
    scales = {BASE: 0.0} | ({adapter: 1.0} if adapter != BASE else {})
    for number, rows in enumerate(_parts(prompts, part)):
        chosen = [prompts[i] for i in rows]
        key = _key(collector, chosen, base)
        columns = _columns(chosen, [splits[i] for i in rows])
        for side, scale in scales.items():
            path = folder / side / f"part_{number:05d}_{key[:8]}.arrow"
            if not path.exists():
                states, answers = collector(chosen, (scale,))
                own = {"p": answers[0, :, 0].tolist(), "cov": answers[0, :, 1].tolist()}
                one = Part(columns | own, {hook: x[0] for hook, x in states.items()}, side)
                one.write(path, key, collector.settings.layers)
            found[side].append(read_part(path, key, collector.settings.hooks))
        order += rows
    back, sides = np.argsort(order), [found[BASE], found[adapter]]

    def joined(of: Any) -> np.ndarray:
        """Return (sides, rows, ...) of what a function takes from each part."""
        return np.stack([np.concatenate([of(part) for part in side])[back] for side in sides])

    p, cov = (joined(lambda part, name=name: part.columns[name]) for name in ("p", "cov"))
    settings = collector.settings
    states = {hook: joined(lambda part, hook=hook: part.states[hook]) for hook in settings.hooks}
    # Splits of this call: they may be others than at the time of writing.
    columns = {name: np.asarray(values) for name, values in _columns(prompts, splits).items()}
    return StateTable(states, settings.layers, p, cov, columns, adapter, seed)


def _parts(prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Yield the indices of each part: prompts of one data set that show the same examples."""
    groups: dict[Any, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault((prompt.example.dataset, prompt.shots), []).append(i)
    for rows in groups.values():
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _key(collector: StateCollector, prompts: Sequence[Prompt], base: str) -> str:
    """Return a hash of what the states of a part depend on, besides the adapter."""
    rows = [[p.example.prompt, p.example.choices, p.example.label, p.shots] for p in prompts]
    about = json.dumps([base, collector.about, rows])
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def _columns(prompts: Sequence[Prompt], splits: Sequence[str]) -> dict[str, list[Any]]:
    rows = [
        (
            p.example.key,
            p.example.dataset,
            p.example.group,
            split,
            p.example.label,
            int(p.lie),
            p.example.polarity,
        )
        for p, split in zip(prompts, splits, strict=True)
    ]
    return {name: list(x) for name, x in zip(COLUMNS, zip(*rows, strict=True), strict=True)}


def collect_pairs(
    collector: StateCollector,
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    base: str,
    part: int = PART,
    hooks: Sequence[str] = (),
) -> dict[str, Float[np.ndarray, "N 2 L D"]]:
    """Return the base's states at the last token of each choice after its prompt, for CCS.

    Args:
        collector: of the model.
        prompts: the prompts.
        folder: the store.
        base: fingerprint of the base model.
        part: prompts per file.
        hooks: the hooks to store; (): all that the collector reads.

    Returns:
        {hook: (N, 2, layers, D)}, in the order of the prompts.
    """
    hooks, order, found = tuple(hooks) or collector.settings.hooks, [], []
    for number, rows in enumerate(_parts(prompts, part)):
        chosen = [prompts[i] for i in rows]
        key = _key(collector, chosen, f"pairs/{base}/{','.join(hooks)}")
        path = folder / "pairs" / f"part_{number:05d}_{key[:8]}.arrow"
        if not path.exists():
            states = collector.pairs(chosen)
            twice = [p for p in chosen for _ in (0, 1)]
            columns = _columns(twice, [""] * len(twice))
            columns |= {name: [float("nan")] * len(twice) for name in ("p", "cov")}
            flat = {h: states[h].reshape(-1, *states[h].shape[2:]) for h in hooks}  # (2 N, L, D)
            Part(columns, flat, BASE).write(path, key, collector.settings.layers)
        found.append(read_part(path, key, hooks))
        order += rows
    back = np.argsort(order)
    out = {}
    for hook in hooks:
        x = np.concatenate([one.states[hook] for one in found])
        out[hook] = x.reshape(-1, 2, *x.shape[1:])[back]  # (N, 2, L, D)
    return out
