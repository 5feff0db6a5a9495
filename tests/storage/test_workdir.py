"""A run's folder: the record of the code version, and folders that are no run's."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flaxae.config import Config, TaskConfig, to_json
from flaxae.errors import ConfigError
from flaxae.storage import workdir


@pytest.mark.parametrize("git, commit", [("abc\n", "abc"), ("", "sent")])
def test_the_commit_comes_from_git_or_else_from_the_sender(
    git: str, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args, **_):
        return subprocess.CompletedProcess(args, 0 if git else 128, stdout=git, stderr="")

    monkeypatch.setattr(workdir.subprocess, "run", run)
    monkeypatch.setenv("FLAXAE_COMMIT", "sent")
    assert workdir.versions()["commit"] == commit
    monkeypatch.delenv("FLAXAE_COMMIT")
    assert workdir.versions()["commit"] == git.strip()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": '{"model_type": "llama"}'}, "that of a pretrained model .llama.$"),
        ({"config.json": '{"task": "text-generation"}'}, "its config.json names no task"),
        ({"config.json": "[]"}, "cannot be read .*not a JSON object, but a list"),
        ({"model.safetensors": ""}, "contains model.safetensors: it is the folder of a model"),
        ({"adapter_config.json": "{}", "adapter_model.bin": ""}, "contains adapter_model.bin"),
        (
            {"config.json": '{"task": {"class": "a:B"}}', "model.safetensors": ""},
            "contains model.safetensors",
        ),
    ],
)
def test_the_folder_of_a_model_is_no_workdir_and_stays_as_it_is(
    files: dict[str, str], message: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        workdir.prepare(Config(task=TaskConfig()), tmp_path, None, True)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": 3}, "config.json: its section optim is not a JSON object"),
        ({"optim": None}, "config.json: its section optim is not a JSON object"),
        ({"data": []}, "config.json: its section data is not a JSON object"),
        ({"steps": {}}, "config.json: steps={} is an object, not an integer"),
        ({"optim": {"decay_steps": "x"}}, "optim.decay_steps='x' is a str"),
    ],
)
def test_a_damaged_config_of_a_run_is_one_message(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    stored = to_json(Config(task=TaskConfig())) | changes
    (tmp_path / "config.json").write_text(json.dumps(stored))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ConfigError, match=message):
        workdir.prepare(Config(task=TaskConfig()), tmp_path, None, True)


def test_a_run_of_a_version_that_did_not_expand_the_home_folder_is_continued(
    tmp_path: Path,
) -> None:
    config = Config(task=TaskConfig())
    stored = to_json(config)
    stored["data"]["cache"] = "~/cache"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    config.data.cache = "~/cache"
    assert "~" not in workdir.prepare(config, tmp_path, None, True).data.cache


def test_other_files_in_a_new_workdir_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    workdir.prepare(Config(task=TaskConfig()), tmp_path, None, True)
    assert workdir.is_workdir(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["steps"] > 0
