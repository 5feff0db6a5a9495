"""The last lines that train.py prints: how to evaluate a run and how to train it further."""

import dataclasses
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from flaxae.command import run_main
from flaxae.config import copy_config, flags
from flaxae.config.horizon import check_horizon
from flaxae.errors import ConfigError
from flaxae.models.looped.task import LoopedConfig
from flaxae.storage.workdir import resolve
from flaxae.training.loop import Result
from tests.helpers import arrays_of, log_of
from tests.tiny.family import TinyTask, tiny_config

ARGV = ["train.py", "--config", "mine/my config.py:quick", "--workdir=runs/w"]


class Reporting(TinyTask):
    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        return {}


def text(step: int = 20, task: type[TinyTask] = TinyTask, **overrides: Any) -> str:
    config = resolve(tiny_config(**overrides), None)
    result = Result({"step": step}, {}, "done", config, task(config))  # pyright: ignore
    return train.describe(result, "runs/w", ARGV)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_run_whose_learning_rate_ended_at_0_is_continued_as_a_new_run(schedule):
    out = text(optim__schedule=schedule)
    assert "the same command with --config.resume_from=runs/w --workdir=NEW" in out
    assert "--config.steps" not in out


@pytest.mark.parametrize(
    "overrides",
    [
        {"optim__schedule": "constant"},
        {"optim__schedule": "rsqrt"},
        {"optim__schedule": "cosine", "optim__final_lr": 0.1},
        {"optim__decay_steps": 60},
    ],
)
def test_a_run_that_still_learns_is_extended(overrides):
    assert text(**overrides).endswith("the same command with --config.steps=40")


def test_a_run_is_not_extended_beyond_its_schedule():
    assert text(optim__decay_steps=30).endswith("the same command with --config.steps=30")


def test_the_evaluation_of_a_task_outside_flaxae_names_its_config_file():
    assert "flaxae.evaluate" not in text()  # the task has no report
    command = "python -m flaxae.evaluate runs/w '--config=mine/my config.py:quick'\n"
    assert command in text(task=Reporting)
    own = dataclasses.replace(tiny_config(), task=LoopedConfig(), data=LoopedConfig.data_class())
    result = Result({"step": 20}, {}, "done", own, Reporting(own))  # pyright: ignore
    assert "python -m flaxae.evaluate runs/w\n" in train.describe(result, "runs/w", ARGV)


FILE = """
from tests.tiny.family import tiny_config

def get_config():
    return tiny_config(steps=4, save__every=4, eval__splits=(), optim__warmup=1)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Train a cosine run to its end; return its command line and its workdir."""
    folder = tmp_path_factory.mktemp("my run")  # a space, which a command has to quote
    (folder / "config.py").write_text(FILE)
    argv = ["train.py", f"--config={folder / 'config.py'}", f"--workdir={folder / 'w'}"]
    assert train.main(argv) == 0
    return argv, folder / "w"


def trained_further(argv: list[str], workdir: Path, advice: str, tmp_path: Path) -> None:
    """Follow an advice, a command line's text, with a copy of a run; check that it learns."""
    copy = tmp_path / "my run" / "w"
    shutil.copytree(workdir, copy)
    advice = advice.replace(str(workdir), str(copy)).replace(
        "NEW", "'" + str(tmp_path / "new") + "'"
    )
    argv = [a.replace(str(workdir), str(copy)) for a in argv] + shlex.split(advice)
    assert run_main(train.main, argv) == 0, advice
    trained = tmp_path / "new" if "--workdir" in advice else copy
    before, after = arrays_of(workdir), arrays_of(trained)
    names = [name for name in before if "params" in name and "carry" not in name]
    assert any(not np.array_equal(before[n], after[n]) for n in names), advice
    rates = [row["lr"] for row in log_of(trained) if row["split"] == "train"]
    assert rates[-2] > 0, advice


def test_the_last_line_trains_further(finished, tmp_path, capsys):
    argv, workdir = finished
    assert train.main(argv) == 0  # it is done already
    advice = re.search(r"the same command with (.*)", capsys.readouterr().out)
    assert advice is not None
    trained_further(argv, workdir, advice[1], tmp_path)


@pytest.mark.parametrize("way", range(3))
def test_an_extension_at_learning_rate_0_is_refused_with_ways_that_train(finished, way, tmp_path):
    argv, workdir = finished
    with pytest.raises(ConfigError, match="cosine schedule is 0 from step 4 on") as e:
        train.main([*argv, "--config.steps=8"])
    assert int(arrays_of(workdir)["['step']"]) == 4
    ways = re.findall(r"^  (\S.*)$", str(e.value), re.MULTILINE)
    assert [w for w in ways if w.startswith("--config") or w.startswith("'--config")] == ways
    assert len(ways) == 3
    trained_further([*argv, "--config.steps=8"], workdir, ways[way], tmp_path)


def test_steps_beyond_the_schedule_of_a_new_run_are_refused():
    def check(stored: Any = None, **overrides: Any) -> None:
        check_horizon(resolve(tiny_config(**overrides), stored), stored, "w")

    with pytest.raises(ConfigError, match="optim.decay_steps=10.*--config.optim.decay_steps=20"):
        check(optim__decay_steps=10)
    with pytest.raises(ConfigError, match="warmup=30 is longer than the cosine schedule of 20"):
        check(optim__warmup=30)
    check(optim__warmup=20)
    for schedule in ("constant", "rsqrt"):
        check(optim__schedule=schedule, optim__decay_steps=10, optim__warmup=30)
    check(optim__decay_steps=10, optim__final_lr=0.1)
    # A run that began so before this was refused is continued.
    began = {"steps": 20, "optim": {"decay_steps": 10}}
    check(began)
    assert resolve(tiny_config(), began).optim.decay_steps == 10  # its own, not its steps
    with pytest.raises(ConfigError, match="w began with"):
        check(began, steps=30)
    check({"steps": 20}, steps=20)  # a config.json without a horizon


@pytest.mark.parametrize("fields", [{"optim__decay_steps": 10}, {"optim__warmup": 30}])
def test_each_option_in_the_refusal_of_a_new_run_helps(fields):
    config = tiny_config(**fields)
    with pytest.raises(ConfigError) as e:
        check_horizon(config, None, "w")
    options = re.findall(r"--config\.([a-z_.]+)=(\d+)", str(e.value))
    assert options
    for name, value in options:
        changed = copy_config(config)
        flags.override(changed, name, value)
        check_horizon(changed, None, "w")


def test_the_horizon_in_the_advice_fits_steps_per_call():
    fields: Any = {"steps_per_call": 4, "log__every": 4, "save__every": 4, "eval__every": 4}
    assert text(optim__decay_steps=30, **fields).endswith("with --config.steps=28")
    assert "--config.resume_from" in text(optim__decay_steps=23, **fields)


def test_a_stopped_run_names_the_command_that_continues_it(finished, capsys):
    argv, workdir = finished
    config = resolve(tiny_config(), None)
    result = Result({"step": 2}, {}, "sigterm", config, TinyTask(config))  # pyright: ignore
    command = train.describe(result, str(workdir), argv).splitlines()[-1].strip()
    words = shlex.split(command)
    assert words[0] == "python" and run_main(train.main, words[1:]) == 0
    assert "was done already, at step 4" in capsys.readouterr().out
