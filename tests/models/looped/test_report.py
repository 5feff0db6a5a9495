"""An experiment from its runs to its page: measures, tables, figures; runs are trained once."""

import json

import numpy as np
import pytest

import flaxae
from flaxae.errors import ConfigError
from flaxae.models.looped import evaluation, report
from flaxae.models.looped.report import Experiment
from flaxae.models.looped.verdicts import Claim
from flaxae.sweep.__main__ import main as sweep_main
from flaxae.training.loop import run
from tests.models.looped.tiny import tiny_config

CONFIG = """
from tests.models.looped.test_report import EXPERIMENT
get_config, get_runs, finish = EXPERIMENT.get_config, EXPERIMENT.get_runs, EXPERIMENT.finish
"""


def base(quick: bool):
    return tiny_config(task__eval_loops=0, task__model__dims=2 if quick else 3)


def runs(quick: bool):
    # Both are the same run, with different overrides.
    return {"b=3": {"task.loops": 3}, "the same": {"task.loops": 3, "task.grad_loops": 2}}


EXPERIMENT = Experiment(
    title="Tiny",
    base=base,
    runs=runs,
    measures=("loops",),
    columns={"after b": "loops.error", "plateau": "curve.plateau_step"},
    claims=(Claim("it is itself", ("b=3", "loops.error"), ("the same", "loops.error"), 2.0),),
    figures={"by_loop": (), "learning_curves": ("b=3",)},
    seeds=(0, 1),
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(tiny_config(), folder)
    return flaxae.load(folder)


def test_measures_agree_with_each_other(loaded, monkeypatch):
    monkeypatch.setattr(evaluation, "ROWS", 64)
    monkeypatch.setattr(evaluation, "LOOPS", 60)
    found = {name: make(loaded) for name, make in evaluation.MEASURES.items()}
    json.dumps(found)
    loops, masks, halting = found["loops"], found["masks"], found["halting"]
    assert len(loops["by_loop"]) == 60 and len(loops["by_point"]) == 4
    assert loops["error"] == loops["by_loop"][2] and loops["error_3b"] == loops["by_loop"][8]
    assert loops["by_point"][-1] == pytest.approx(loops["error"], rel=1e-4)
    for side in ("first", "last"):
        assert masks[side]["error"][0] == pytest.approx(masks["one_loop"], rel=1e-5)
        assert masks[side]["error"][-1] == masks["whole"]
    assert masks["counts"][0] == 0 and masks["counts"][-1] == 7
    assert len(found["probes"]["by_depth"]) == 3
    tolerances, errors, used = np.asarray(halting["rows"]).T
    assert (np.diff(used) <= 0).all() and used.max() <= 3 and (errors > 0).all()
    assert set(found["shifts"]) >= {"none", "quadrants", "noise of 1"}
    assert found["curve"]["trained"] == 4


def test_a_probe_reads_linear_states_but_not_random_ones():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 6))
    weights = states @ rng.normal(size=(6, 2)) + 3.0
    assert evaluation._probe(states, weights) < 1e-9
    assert evaluation._probe(rng.normal(size=(400, 6)), weights) > 0.3


@pytest.mark.slow
def test_an_experiment_trains_each_run_once_and_can_be_repeated(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "ROWS", 64)
    (tmp_path / "report_tiny.py").write_text(CONFIG)
    work = tmp_path / "w"
    command = ["sweep", f"--config={tmp_path / 'report_tiny.py'}:quick", f"--workdir={work}"]
    assert sweep_main(command) == 0
    trained = {p.parent.name: p.stat().st_mtime_ns for p in work.glob("*/result.json")}
    assert len(trained) == 2  # two names, two seeds, one config
    tables = work / "tables" / "report_tiny"
    page = (tables / "report.md").read_text()
    assert page in capsys.readouterr().out
    assert "QUICK" in page and "| b=3 (QUICK) | 4 |" in page and "**confirmed**" in page
    for name in ("by_loop", "learning_curves"):
        assert (tables / f"{name}.png").stat().st_size > 1000
        assert "<svg" in (tables / f"{name}.svg").read_text()
    assert list((tables / "tensorboard").iterdir())
    assert sweep_main(command) == 0
    assert trained == {p.parent.name: p.stat().st_mtime_ns for p in work.glob("*/result.json")}
    (work / next(iter(trained)) / "measures" / "loops.json").unlink()
    assert sweep_main(command) == 0
    assert (tables / "report.md").read_text() == page


def test_mistakes_on_the_command_line_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="quick"):
        EXPERIMENT.get_config("full")
    with pytest.raises(ConfigError, match="report_losses"):
        report.main(["report", f"--workdir={tmp_path}", "--only", "none"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="repository"):
        report.main(["report", f"--workdir={tmp_path}"])


def test_the_report_of_one_run(loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "ROWS", 64)
    found = loaded.task.report(loaded, str(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text()).keys() == found.keys()
    assert (tmp_path / "by_loop.svg").exists()
    assert "least squares" in capsys.readouterr().out
