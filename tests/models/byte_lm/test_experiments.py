"""Experiments: tuned settings, seeds of the best one, and continuing from a record."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from flaxae.config import Config
from flaxae.errors import ConfigError
from flaxae.models.byte_lm import experiments
from flaxae.models.byte_lm.experiments import DEV, Experiment, Variant, chosen, grid, pairs
from flaxae.models.byte_lm.grid_cells import all_cells, whole_updates
from flaxae.models.byte_lm.grid_plan import Plan
from flaxae.models.byte_lm.streams import ByteDataConfig
from flaxae.models.byte_lm.successive_report import SCAN
from flaxae.sweep.record import read_record
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


def test_pairs_have_equal_seeds() -> None:
    ours, others = ([{"seed": seed} for seed in seeds] for seeds in ((0, 2, 3), (0, 1, 2)))
    assert [(a["seed"], b["seed"]) for a, b in pairs(ours, others)] == [(0, 0), (2, 2)]


def test_rows_name_the_data_of_their_own_run(trained: Any, base: Config, tmp_path: Path) -> None:
    other, record = tmp_path / "other.txt", tmp_path / "rows.jsonl"
    other.write_bytes(b"xyz" * 200)
    lr = {"optim.lr": 0.02}
    two = {"base": Variant(lr), "other": Variant(lr | {"data.path": str(other)})}
    assert Experiment(base, two, record).train(tmp_path)
    one, two_rows = read_record(record).values()
    assert one["data"] != two_rows["data"]
    # The other data do not hinder further runs; changed data do.
    more = {"more": Variant({"optim.lr": 0.03})}
    assert Experiment(base, more, record).train(tmp_path)
    other.write_bytes(b"xyz" * 300)
    more = {"more": Variant({"optim.lr": 0.03, "data.path": str(other)})}
    with pytest.raises(ConfigError, match=f"numbers of data {two_rows['data']}"):
        Experiment(base, more, record).train(tmp_path)


def test_a_row_without_its_data_is_refused(trained: Any, base: Config, tmp_path: Path) -> None:
    row = {"run": "0", "variant": "x", "seed": 0, "overrides": {}, "numbers": {DEV: 1.0}}
    record = tmp_path / "rows.jsonl"
    record.write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="the row of run 0 does not name its data"):
        Experiment(base, variants(1), record).train(tmp_path)


@pytest.mark.parametrize("name", ["automaton", "stimulus", "straight", "successive"])
def test_all_rows_in_the_repository_belong_to_a_variant(name: str) -> None:
    record = Path(f"configs/byte_lm/{name}.jsonl")
    space = runpy.run_path(str(record.with_suffix(".py")))
    kinds = {
        "automaton": lambda: [("full", "variants"), ("rnn", "variants")],
        "stimulus": lambda: [("full", "variants")],
        "straight": lambda: [("full", "variants")],
        "successive": lambda: [("full", "autoencoders")],
    }
    known = set()
    for preset, names in kinds[name]():
        base = space["get_config"](preset)
        for key, variant in space[names](preset).items():
            runs = [variant.run(one, s) for one in variant.settings() for s in range(variant.seeds)]
            known |= {(key, Experiment(base, {}, record).key(run)) for run in runs}
    for row in read_record(record).values():
        assert row["data"] and "seed" in row
        if "reservoir" in row["variant"]:  # the settings of some are found by a scan
            base, overrides = space["reservoir"](), dict(row["overrides"])
            if row["variant"] == SCAN:
                overrides["steps"] = base.steps_per_call
            assert Experiment(base, {}, record).key(overrides) == row["run"], overrides
        else:
            assert (row["variant"], row["run"]) in known, row["overrides"]


def test_all_rows_of_the_grid_in_the_repository_belong_to_a_cell() -> None:
    plan = Plan(runpy.run_path("configs/byte_lm/grid.py"), "")
    cells = {str(cell): cell for cell in (*all_cells(), *whole_updates(all_cells()))}
    for row in read_record(Path("configs/byte_lm/grid.jsonl")).values():
        assert plan.key(row["variant"], cells[row["cell"]]) == row["run"], row["cell"]
