"""The runs and programs of a sweep, and its config file; training itself is faked."""

from pathlib import Path

import pytest

from flaxae.config.files import load_config
from flaxae.errors import ConfigError
from flaxae.sweep import group_by_shape, sweep
from flaxae.sweep.__main__ import main
from flaxae.sweep.plan import Plan
from flaxae.training.loop import Result
from tests.tiny.family import TinyTask, tiny_config

FILE = """
from tests.tiny.family import tiny_config as get_config

def get_runs(preset):
    return [{"seed": s, "steps": 10 if preset == "short" else 20} for s in (0, 1)]
"""
FINISH = """
def finish(rows, workdir, outdir):
    assert all((workdir / row["run"] / "result.json").exists() for row in rows)
    return f"{len(rows)} runs of {rows[0]['steps']} steps, tables in {outdir.name}"
"""


@pytest.fixture
def trained(monkeypatch):
    """Record the calls that would have trained: (steps, number of runs)."""
    calls = []

    def fake(config, workdir, lanes=None):
        calls.append((config.steps, len(lanes or [None])))
        for i in range(len(lanes or [])):
            (workdir / "lanes" / f"{i:02d}").mkdir(parents=True)
        losses = [1.0 + lane for lane in range(len(lanes or []))]  # each lane has its own
        return Result({}, {"dev/loss": losses or 1.0}, "done")

    monkeypatch.setattr("flaxae.sweep.runs.run", fake)
    return calls


def test_runs_of_unequal_cost_are_not_grouped(monkeypatch):
    runs = [{"task.penalty": p, "seed": s} for p in (0.1, 0.2) for s in (0, 1)]
    assert group_by_shape(tiny_config(), runs) == [[0, 1, 2, 3]]
    monkeypatch.setattr(TinyTask, "lanes_apart", ("task.penalty",))
    assert group_by_shape(tiny_config(), runs) == [[0, 1], [2, 3]]


def test_a_run_with_two_names_is_trained_once(trained, tmp_path):
    runs = [{"seed": 1}, {"seed": 1}, {"seed": 1, "steps": 20}, {"seed": 2}]
    rows = sweep(tiny_config(), runs, tmp_path)
    assert sum(count for _, count in trained) == 2
    assert len({row["run"] for row in rows}) == 2
    assert [row["status"] for row in rows] == ["done"] * 4
    assert [row["dev/loss"] for row in rows] == [1.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "wrong, message",
    [({"seed": -1}, "seed=-1"), ({"steps": 40}, "is above optim.decay_steps=20")],
)
def test_a_wrong_config_ends_a_sweep_before_its_first_run(trained, tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        sweep(tiny_config(optim__decay_steps=20), [{"steps": 10}, wrong], tmp_path)
    assert trained == []


def test_a_config_file_names_its_runs_and_makes_its_own_tables(trained, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(FILE + FINISH)
    work = tmp_path / "w"
    assert main(["sweep", f"--config={file}", f"--workdir={work}"]) == 0
    assert trained == [(20, 2)]
    assert "2 runs of 20 steps, tables in mine" in capsys.readouterr().out
    assert (work / "tables" / "mine" / "table.csv").exists()
    # A grid on the command line replaces the file's runs.
    command = ["sweep", f"--config={file}", f"--workdir={work}"]
    assert main([*command, "--grid=seed=0,1", "--config.steps=20"]) == 0
    assert len(trained) == 1 and (work / "table.md").exists()


def test_get_runs_gets_the_preset(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    plan = Plan.of(f"{tmp_path / 'mine.py'}:short", [])
    assert plan.runs[0]["steps"] == 10 and plan.finish is None


def test_runs_come_from_a_file_of_the_installed_package(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.setattr("flaxae.sweep.plan.locate", lambda file: tmp_path / Path(file).name)
    assert len(Plan.of("configs/family/mine.py", []).runs) == 2
    monkeypatch.setattr("flaxae.sweep.plan.locate", lambda file: None)
    with pytest.raises(ConfigError, match="there is no file configs/family/mine.py"):
        Plan.of("configs/family/mine.py", [])


def test_a_config_file_without_runs_needs_a_grid(tmp_path):
    (tmp_path / "mine.py").write_text("from tests.tiny.family import tiny_config as get_config\n")
    with pytest.raises(ConfigError, match="--grid is missing"):
        Plan.of(str(tmp_path / "mine.py"), [])


def test_jobs_need_classes_that_other_processes_can_import(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import dataclasses\n"
        "from flaxae.config import Config, TaskConfig\n"
        "@dataclasses.dataclass\n"
        "class OwnConfig(TaskConfig):\n"
        "    width: int = 8\n"
        "def get_config():\n"
        "    return Config(task=OwnConfig())\n"
    )
    with pytest.raises(ConfigError, match=r"jobs=2 .* defined in the config file"):
        sweep(load_config(str(file)), [{"seed": 1}], tmp_path / "w", jobs=2)
