"""The files that an evaluation writes, for any family."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from flaxae import evaluate
from flaxae.config import LogConfig
from flaxae.errors import ConfigError
from flaxae.training import load as loading
from tests.tiny.family import TinyTask, tiny_config


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    figure.savefig(path)


class Drawer:
    """A task whose report is a line and a figure."""

    def report(self, loaded, outdir):
        print("a line")
        draw(Path(outdir) / "loops" / "by_loop.png")
        return {"step": loaded.step}


def events(workdir):
    return b"".join(f.read_bytes() for f in (workdir / "tensorboard").glob("*tfevents*"))


class Silent:
    """A task whose report only returns values."""

    def report(self, loaded, outdir):
        return {"step": loaded.step, "table": [1, 2], "error": 0.5}


def opened(monkeypatch, task):
    config = SimpleNamespace(log=LogConfig(tensorboard=False))
    loaded = SimpleNamespace(task=task, step=7, config=config)
    monkeypatch.setattr(loading, "load", lambda *_: loaded)


def test_scalars_of_a_report_that_prints_nothing_are_printed(tmp_path, monkeypatch, capsys):
    opened(monkeypatch, Silent())
    evaluate.evaluate(tmp_path)
    assert capsys.readouterr().out == "step = 7\nerror = 0.5\n"
    assert (tmp_path / "report" / "report.txt").read_text() == "step = 7\nerror = 0.5\n"


def test_the_options_of_the_command_reach_the_evaluation(tmp_path, monkeypatch, capsys):
    found = []
    config = SimpleNamespace(log=LogConfig(tensorboard=False))
    loaded = SimpleNamespace(task=Silent(), step=7, config=config)
    monkeypatch.setattr(loading, "load", lambda *args: found.append(args) or loaded)
    file = Path(__file__).parents[1] / "configs" / "looped" / "linear.py"
    for which in ("auto", "latest", "best"):
        options = [f"--which={which}", f"--outdir={tmp_path / which}", f"--config={file}"]
        assert evaluate.main(["evaluate", str(tmp_path), *options]) == 0
        assert (tmp_path / which / "report.txt").is_file()
    assert [args[2] for args in found] == ["auto", "latest", "best"]
    assert {args[1].__name__ for args in found} == {"LoopedConfig"}
    assert f"written to {tmp_path / 'best'}" in capsys.readouterr().out


def test_a_task_without_a_report_is_one_message_and_writes_nothing(tmp_path, monkeypatch):
    opened(monkeypatch, TinyTask(tiny_config()))
    with pytest.raises(ConfigError, match=r"TinyTask defines no report\(\)"):
        evaluate.evaluate(tmp_path)
    assert not list(tmp_path.iterdir())


def test_figures_of_the_report_also_go_to_tensorboard(tmp_path, monkeypatch, capsys):
    log = LogConfig()
    loaded = SimpleNamespace(task=Drawer(), step=7, config=SimpleNamespace(log=log))
    monkeypatch.setattr(loading, "load", lambda *_: loaded)
    old = tmp_path / "report" / "old.png"
    draw(old)
    os.utime(old, (1e9, 1e9))  # from an evaluation long ago
    assert evaluate.evaluate(tmp_path) == {"step": 7}
    found = events(tmp_path)
    assert b"report/loops/by_loop" in found and b"report/old" not in found and b"\x89PNG" in found
    assert (tmp_path / "report" / "report.txt").read_text() == "a line\n"
    assert capsys.readouterr().out == "a line\n"

    log.tensorboard = False
    evaluate.evaluate(tmp_path)
    assert events(tmp_path) == found
    log.tensorboard = True
    evaluate.evaluate(tmp_path, tmp_path / "elsewhere")  # the workdir may be read-only
    assert events(tmp_path) == found and (tmp_path / "elsewhere/loops/by_loop.png").exists()
