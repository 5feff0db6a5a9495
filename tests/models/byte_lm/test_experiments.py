"""Experiments: tuned settings, seeds of the best one, and continuing from a record."""

from pathlib import Path
from typing import Any

import pytest

from flaxae.config import Config
from flaxae.errors import ConfigError
from flaxae.models.byte_lm import experiments
from flaxae.models.byte_lm.experiments import DEV, Experiment, Variant, chosen, grid
from flaxae.models.byte_lm.streams import ByteDataConfig
from tests.models.byte_lm.toy import ToyConfig


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the overrides of runs that were trained; their loss is the distance of lr from .02."""
    found: list[dict[str, Any]] = []

    def sweep(config: Config, runs: list[dict[str, Any]], outdir: Path) -> list[dict[str, Any]]:
        found.extend(runs)
        return [{"status": "done", DEV: abs(run["optim.lr"] - 0.02), "run": ""} for run in runs]

    monkeypatch.setattr(experiments, "sweep", sweep)
    return found


@pytest.fixture
def base(tmp_path: Path) -> Config:
    text = tmp_path / "text.txt"
    text.write_bytes(b"abc" * 200)
    return Config(task=ToyConfig(), data=ByteDataConfig(path=str(text)))


def variants(seeds: int) -> dict[str, Variant]:
    candidates = grid(optim__lr=(0.01, 0.02, 0.03))
    return {
        "gain 1": Variant({}, candidates, seeds),
        "gain 2": Variant({"task.gain": 2.0}, candidates),
    }


def test_only_the_best_setting_gets_more_seeds(trained: Any, base: Config, tmp_path: Path) -> None:
    experiment = Experiment(base, variants(3), tmp_path / "rows.jsonl")
    assert experiment.train(tmp_path)
    assert len(trained) == 3 + 3 + 2
    assert {(run["optim.lr"], run["seed"]) for run in trained[6:]} == {(0.02, 1), (0.02, 2)}
    assert [row["seed"] for row in experiment.rows("gain 1")] == [0, 1, 2]
    assert experiment.best_setting("gain 2") == {"task.gain": 2.0, "optim.lr": 0.02}


def test_rows_of_a_record_are_not_trained_again(trained: Any, base: Config, tmp_path: Path) -> None:
    record = tmp_path / "rows.jsonl"
    assert Experiment(base, variants(1), record).train(tmp_path)
    trained.clear()
    assert Experiment(base, variants(2), record).train(tmp_path)
    assert [(run["optim.lr"], run["seed"]) for run in trained] == [(0.02, 1)]


def test_an_unknown_variant_is_reported() -> None:
    with pytest.raises(ConfigError, match="--only: unknown gain 3; there are gain 1, gain 2"):
        chosen(variants(1), ["gain 3"])
