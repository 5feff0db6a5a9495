"""The last lines that train.py prints: how to evaluate a run and how to train it further."""

import dataclasses
from typing import Any

import pytest

import train
from flaxae.models.looped.task import LoopedConfig
from flaxae.storage.workdir import resolve
from flaxae.training.loop import Result
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
