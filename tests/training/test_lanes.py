"""Lanes equal single runs; a family outside flaxae runs through the loop unchanged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flaxae
from flaxae.errors import ConfigError, NonFiniteError
from flaxae.sweep import sweep
from flaxae.training.loop import run
from tests.helpers import arrays_of, assert_same, flat, log_of
from tests.tiny.family import TinyConfig, tiny_config

LANES: list[dict[str, Any]] = [
    {"seed": 0},
    {"seed": 1, "optim.lr": 3e-3},
    {"seed": 2, "task.penalty": 0.5},
    {"seed": 3, "optim.lr": 2e-2, "task.penalty": 0.0},
]


def one(tmp_path: Path, overrides: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    config = tiny_config()
    run(flaxae.config.copy_config(config, overrides), tmp_path / name)
    return arrays_of(tmp_path / name)


def test_four_lanes_equal_four_runs(tmp_path: Path) -> None:
    result = run(tiny_config(), tmp_path / "lanes", LANES)
    assert result.status == "done"
    for i, overrides in enumerate(LANES):
        single = one(tmp_path, overrides, f"single{i}")
        lane = tmp_path / "lanes" / "lanes" / f"{i:02d}"
        assert_same(arrays_of(lane), single, atol=1e-5)
        rows, expected = log_of(lane), log_of(tmp_path / f"single{i}")
        expected = [r for r in expected if r["split"] != "sample"]  # lanes are not sampled from
        assert [r["step"] for r in rows] == [r["step"] for r in expected]
        assert rows[-1]["loss"] == pytest.approx(expected[-1]["loss"], abs=1e-5)
        assert rows[-1]["median"] == pytest.approx(expected[-1]["median"], abs=1e-5)
        assert expected[-1]["rows"] == rows[-1]["rows"] == 3 * 13  # collected from three batches
    # A lane's folder is an ordinary workdir.
    loaded = flaxae.load(tmp_path / "lanes" / "lanes" / "02", config_class=TinyConfig)
    assert loaded.step == 20 and loaded.config.seed == 2
    longer = flaxae.config.copy_config(tiny_config(steps=24, optim__decay_steps=24), LANES[2])
    lane = tmp_path / "lanes" / "lanes" / "02"
    assert run(longer, lane).status == "done"
    # The lanes' command, given again, leaves a lane alone that was trained further.
    files = {p: p.read_bytes() for p in (lane / "config.json", lane / "metrics.jsonl")}
    again = run(tiny_config(), tmp_path / "lanes", LANES)
    assert again.status == "already_done"
    assert again.metrics["dev/loss"] == pytest.approx(result.metrics["dev/loss"])
    assert files == {p: p.read_bytes() for p in files}
    assert [p.name for p in (lane / "latest").iterdir()] == ["24"]


def test_lanes_without_decay_do_not_take_the_base_configs_decay(tmp_path: Path) -> None:
    none = {"optim.weight_decay": 0.0}
    base = tiny_config(steps=3, optim__weight_decay=0.5)
    run(base, tmp_path / "lanes", [none, none | {"seed": 1}])
    run(flaxae.config.copy_config(base, none), tmp_path / "single")
    run(base, tmp_path / "decays")
    single = arrays_of(tmp_path / "single")
    assert_same(arrays_of(tmp_path / "lanes" / "lanes" / "00"), single, atol=1e-5)
    with pytest.raises(AssertionError):
        assert_same(arrays_of(tmp_path / "decays"), single, atol=1e-5)


def test_lanes_resume_bit_exactly(tmp_path: Path) -> None:
    whole = run(tiny_config(), tmp_path / "whole", LANES)
    half = tiny_config(steps=10, optim__decay_steps=20)
    run(half, tmp_path / "half", LANES)
    resumed = run(tiny_config(optim__decay_steps=20), tmp_path / "half", LANES)
    assert_same(flat(resumed.state), flat(whole.state))


def test_a_lane_of_nan_changes_no_other_lane(tmp_path: Path) -> None:
    clean = run(tiny_config(), tmp_path / "clean", LANES)
    poisoned = [*LANES[:1], {**LANES[1], "task.poison": 1.0}, *LANES[2:]]
    result = run(tiny_config(), tmp_path / "poisoned", poisoned)
    lanes = tmp_path / "poisoned" / "lanes"
    assert [(lanes / f"{i:02d}" / "FAILED").exists() for i in range(4)] == [
        False,
        True,
        False,
        False,
    ]
    for i in (0, 2, 3):
        a, b = ({k: v[i] for k, v in flat(r.state["params"]).items()} for r in (result, clean))
        assert_same(a, b)
    assert all(np.isfinite(x).all() for x in flat(result.state["params"]).values())


def test_the_run_stops_when_all_lanes_are_nan(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="step 5"):
        run(tiny_config(), tmp_path / "w", [{"task.poison": 1.0}, {"task.poison": 2.0}])


def test_lanes_may_not_change_shapes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accumulate"):
        run(tiny_config(), tmp_path / "w", [{"accumulate": 2}])


def test_lanes_with_different_data_equal_single_runs(tmp_path: Path) -> None:
    lanes = [{"data.seed": 0}, {"data.seed": 5}]
    run(tiny_config(), tmp_path / "lanes", lanes)
    for i, overrides in enumerate(lanes):
        single = one(tmp_path, overrides, f"single{i}")
        lane = tmp_path / "lanes" / "lanes" / f"{i:02d}"
        assert_same(arrays_of(lane), single, atol=1e-5)
        # Each lane is evaluated on its own held-out data.
        dev, expected = (
            [r["error"] for r in log_of(folder) if r["split"] == "dev"]
            for folder in (lane, tmp_path / f"single{i}")
        )
        np.testing.assert_allclose(dev, expected, atol=1e-5)
        config = flaxae.config.copy_config(tiny_config(steps=22, optim__decay_steps=22), overrides)
        assert run(config, lane).status == "done"


def test_a_sweep_groups_runs_resumes_and_writes_tables(tmp_path: Path) -> None:
    runs = [{"optim.lr": lr, "accumulate": a} for a in (1, 2) for lr in (1e-3, 1e-2)]
    rows = sweep(tiny_config(), runs, tmp_path)
    assert [row["status"] for row in rows] == ["done"] * 4
    assert len(list((tmp_path / "groups").iterdir())) >= 1
    table = (tmp_path / "table.md").read_text()
    assert all(row["run"] in table for row in rows)
    assert (tmp_path / "table.csv").read_text().count("\n") == 5
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")}
    again = sweep(tiny_config(), runs, tmp_path)
    assert again == rows
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.json")}
