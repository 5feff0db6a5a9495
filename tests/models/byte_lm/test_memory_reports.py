"""Tests of the reports on Stimulus layers and on memories, from rows to pages."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.models.byte_lm import stimulus_report, successive_report
from flaxae.models.byte_lm.experiments import DEV, PATH, TEST, Experiment
from flaxae.models.byte_lm.stimulus_report import HALF_LIVES
from flaxae.models.byte_lm.successive_report import NOISES, capacity_key
from flaxae.sweep.record import read_record

STIMULUS, SUCCESSIVE = "configs/byte_lm/stimulus.py", "configs/byte_lm/successive.py"


def add(experiment: Experiment, name: str, numbers: dict[int, dict[str, Any]]) -> None:
    """Add rows of a variant's first setting.

    Args:
        experiment: the experiment.
        name: the variant.
        numbers: numbers by seed.
    """
    variant = experiment.variants[name]
    with experiment.record.open("a") as file:
        for seed, each in numbers.items():
            overrides = variant.run(variant.settings()[0], seed)
            row = {"run": experiment.key(overrides), "variant": name, "seed": seed, "data": "x"}
            file.write(json.dumps(row | {"overrides": overrides, "numbers": each}) + "\n")


def test_the_page_on_stimulus_layers_compares_equal_seeds(tmp_path: Path) -> None:
    space = runpy.run_path(STIMULUS)
    experiment = Experiment(space["get_config"](), space["variants"](), tmp_path / "runs.jsonl")
    levels = {0: 0.0, 1: 9.0, 2: 0.2}  # of the seeds: seed 1 exists in one variant only
    frozen = {seed: {DEV: 4.0, TEST: 4.0 + level} for seed, level in levels.items()}
    add(experiment, "frozen", frozen)
    ours = {seed: {DEV: 3.9, TEST: 3.9 + levels[seed] - 0.01 * seed} for seed in (0, 2)}
    add(experiment, "k = 1", ours)
    lives = {DEV: 3.5, TEST: 3.5, HALF_LIVES: [1.0, 2.0, 4.0, 8.0, 16.0]}
    add(experiment, "decay of each unit, exact", {0: lives})
    text = stimulus_report.write(experiment, tmp_path, "a note")
    assert text == (tmp_path / "report.md").read_text() and "a note" in text
    assert "| k = 1 | 0.01 | 2 |" in text
    assert "(k = 1 − frozen) | -0.110 [-0.237, +0.017] | unclear |" in text
    assert "| decay of each unit, exact | 1.20 | 2.00 | 4.00 | 8.00 | 14.40 |" in text
    assert (tmp_path / "half_lives.png").exists()


def memories(capacity: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for data in ("uniform", "text"):
        found[f"{data} rms"] = 0.5
        for noise in NOISES:
            found |= {capacity_key(data, noise): capacity}
            found |= {f"{data}, noise {noise:g}: depth": 3}
            found |= {f"{data}, noise {noise:g}: curve": [8.0, 4.0, 0.0]}
    return found


def test_the_page_on_memories(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(successive_report, "inputs", lambda: {"uniform": 0, "text": 0})
    space, record = runpy.run_path(SUCCESSIVE), tmp_path / "runs.jsonl"
    ours = Experiment(space["get_config"](), space["autoencoders"](), record)
    theirs = Experiment(space["reservoir"](), space["reservoirs"](), record)
    bits = {DEV: 4.125, TEST: 4.25}
    add(ours, "autoencoder, noise .1", {0: bits | memories(30.0)})
    add(ours, "autoencoder of uniform bytes, noise .1", {0: {DEV: 8.0, TEST: 8.0} | memories(60)})
    uniform = ours.variants["autoencoder of uniform bytes, noise .1"]
    assert PATH in uniform.overrides
    scanned = [
        {"overrides": {"task.scale": 0.01, "task.radius": radius}, "numbers": memories(capacity)}
        for radius, capacity in ((0.9, 50.0), (1.0, 40.0))
    ]
    # The reservoir with the largest capacities is one of those whose readout is trained.
    before = len(theirs.variants["reservoir"].candidates)
    successive_report.add_best(theirs.variants, scanned)
    candidates = theirs.variants["reservoir"].candidates
    assert len(candidates) == before + 1 and candidates[-1] == scanned[0]["overrides"]
    found = successive_report.selected([ours, theirs], scanned)
    assert list(found) == [
        "autoencoder of uniform bytes, noise .1",
        "autoencoder, noise .1",
        "untrained reservoir, scale 0.01, radius 0.9",
    ]
    lines = successive_report.table(found).splitlines()
    # Bits per byte of independent bytes do not stand beside those of text.
    assert lines[2].startswith("| autoencoder of uniform bytes, noise .1 | 1 | n/a | n/a | 0.500 |")
    assert lines[3].startswith("| autoencoder, noise .1 | 1 | 4.125 | 4.250 | 0.500 | 30.0 |")
    assert "scale 0.01, radius 1.0" in successive_report.tuning([ours, theirs], scanned)
    assert successive_report.draw(found, tmp_path / "memory.png").stat().st_size > 1000


def test_rows_of_the_repository_make_the_pages(tmp_path: Path) -> None:
    rows = read_record(Path(SUCCESSIVE).with_suffix(".jsonl")).values()
    scanned = [row for row in rows if row["variant"] == successive_report.SCAN]
    assert len(scanned) == 20
    best = successive_report.best_of_scan(scanned, capacity_key("uniform", 0.1))
    capacities = [row["numbers"][capacity_key("uniform", 0.1)] for row in scanned]
    assert best["numbers"][capacity_key("uniform", 0.1)] == np.max(capacities) <= 128
    space = runpy.run_path(STIMULUS)
    record = Path(STIMULUS).with_suffix(".jsonl")
    experiment = Experiment(space["get_config"](), space["variants"](), record)
    assert "| frozen | " in stimulus_report.table(experiment)
