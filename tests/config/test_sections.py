"""Tests of typed configs: fields, types, freezing, JSON and differences."""

import dataclasses
import enum
import json

import pytest

from flaxae import config as config_lib
from flaxae.config import Config, DataConfig, OptimConfig, Optimizer, TaskConfig
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.storage.workdir import prepare, resolve
from tests.tiny.family import TinyConfig


def test_an_unknown_field_is_an_error_that_names_the_known_ones():
    with pytest.raises(ConfigError, match="no field 'learning_rate'.*lr"):
        OptimConfig().learning_rate = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_set_field_checks_types():
    config = Config()
    config_lib.set_field(config, "optim.lr", 1)
    assert config.optim.lr == 1.0 and isinstance(config.optim.lr, float)
    config_lib.set_field(config, "optim.name", "lion")
    assert config.optim.name is Optimizer.LION
    config_lib.set_field(config, "optim.groups", [["x", 1, 0]])
    assert config.optim.groups == (("x", 1, 0),)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("optim.lr", "high", "not a float"),
        ("steps", 1.5, "not a int"),
        ("steps", True, "not a int"),
        ("log.progress", 1, "not a bool"),
        ("optim.name", "adam", "one of: adamw"),
        ("optim.lrr", 1.0, "no field 'optim.lrr'"),
        ("optimizer.lr", 1.0, "no field 'optimizer'"),
        ("optim", 1.0, "not a OptimConfig"),
    ],
)
def test_set_field_rejects_wrong_values(field, value, message):
    with pytest.raises(ConfigError, match=message):
        config_lib.set_field(Config(), field, value)


def test_the_task_names_the_class_of_the_data_section():
    assert type(Config().data) is DataConfig
    assert type(Config(task=T5VAEConfig()).data) is TextDataConfig
    assert Config(task=T5VAEConfig(), data=TextDataConfig(max_length=8)).data.max_length == 8
    wrong = Config(task=T5VAEConfig(), data=DataConfig())
    with pytest.raises(ConfigError, match="T5VAEConfig needs a TextDataConfig, not a DataConfig"):
        wrong.freeze()
    with pytest.raises(ConfigError, match="TextDataConfig is needed, not a DataConfig"):
        wrong.task.make(wrong)


def test_json_round_trip_keeps_the_class_of_the_data_section():
    config = Config(task=T5VAEConfig(), data=TextDataConfig(path="a.txt", bucket_edges=(16, 32)))
    again = config_lib.from_json(config_lib.to_json(config))
    assert again == config and type(config_lib.copy_config(config).data) is TextDataConfig


OLD = {"name": "", "path": "", "max_length": 32, "bucket_edges": [], "long_lines": "skip"}


def test_older_configs_lose_fields_that_changed_nothing():
    config = Config(task=TinyConfig(), data=DataConfig(batch_size=16))
    stored = config_lib.to_json(config)
    stored["data"] |= OLD
    assert config_lib.from_json(stored, TinyConfig) == config


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("max_length", 64, "data.max_length=64, but a DataConfig no longer has this field"),
        ("bucket_edges", [8, 16], "data.bucket_edges"),
        ("widht", 3, "no field 'data.widht'"),
    ],
)
def test_older_configs_with_other_fields_are_refused(field, value, message):
    stored = config_lib.to_json(Config(task=TinyConfig()))
    stored["data"] |= OLD | {field: value}
    with pytest.raises(ConfigError, match=message):
        config_lib.from_json(stored, TinyConfig)


def test_a_run_from_before_the_split_is_continued(tmp_path):
    config = Config(task=TinyConfig(), data=DataConfig(batch_size=16))
    stored = config_lib.to_json(resolve(config, None))
    stored["data"] |= OLD
    (tmp_path / "config.json").write_text(json.dumps(stored))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert prepare(config, tmp_path, None, main=True).data == config.data
    other = Config(task=TinyConfig(), data=DataConfig(batch_size=8))
    with pytest.raises(ConfigError, match="data.batch_size: 16 -> 8"):
        prepare(other, tmp_path, None, main=True)


def test_freezing_includes_all_sections():
    config = Config()
    config.freeze()
    with pytest.raises(ConfigError, match="frozen"):
        config.steps = 5
    with pytest.raises(ConfigError, match="frozen"):
        config.optim.lr = 0.1


@pytest.mark.parametrize(
    "field, value",
    [
        ("steps", 0),
        ("optim.lr", -1.0),
        ("optim.ema", 1.0),
        ("optim.groups", (("x", 1),)),
        ("data.batch_size", 0),
        ("mesh.model", 0),  # two axes would take the rest
        ("accumulate", 3),  # 64 rows are not divisible
        ("steps_per_call", 7),
        ("profile", (10, 3)),
    ],
)
def test_validate_names_the_field(field, value):
    with pytest.raises(ConfigError, match=field.split(".")[0]):
        config = config_lib.copy_config(Config(), {field: value})
        config.freeze()


def test_json_round_trip_keeps_everything():
    config = Config(task=TinyConfig(penalty=0.25), steps=7)
    config.optim.name = Optimizer.MUON
    config.optim.groups = (("embedding", 4.0, 0.0),)
    data = config_lib.to_json(config)
    assert data["task"]["class"] == "tests.tiny.family:TinyConfig"
    again = config_lib.from_json(data, TinyConfig)
    assert again == config
    assert config_lib.config_hash(again) == config_lib.config_hash(config)


def test_classes_outside_flaxae_are_not_imported():
    data = config_lib.to_json(Config()) | {"task": {"class": "os:system"}}
    with pytest.raises(ConfigError, match="not part of flaxae.*--config=FILE.*config_class='FILE'"):
        config_lib.from_json(data)


def test_a_config_of_another_task_is_refused_by_name():
    data = config_lib.to_json(Config(task=TinyConfig()))
    with pytest.raises(ConfigError, match="a run of TinyConfig, but the given config is of T5VAE"):
        config_lib.from_json(data, T5VAEConfig)


FILE = """
from tests.tiny.family import tiny_config

def get_config():
    return tiny_config()
"""


def test_a_config_file_may_be_given_in_place_of_its_class(tmp_path):
    file = tmp_path / "experiment.py"
    file.write_text(FILE)
    data = config_lib.to_json(Config(task=TinyConfig(penalty=0.5)))
    for given in (file, str(file)):
        assert config_lib.from_json(data, given).task == TinyConfig(penalty=0.5)
    with pytest.raises(
        ConfigError, match="neither a task's config class nor the path.*load_config"
    ):
        config_lib.from_json(data, TinyConfig())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "module, message",
    [
        ("config_config", r'in Python with the config flaxae.config.flags.load_config\("FILE"\)'),
        ("mine.tiny", None),  # another class of this name
    ],
)
def test_a_run_of_a_command_names_how_to_continue_it_in_python(tmp_path, module, message):
    config = Config(task=TinyConfig())
    stored = config_lib.to_json(resolve(config, None))
    stored["task"]["class"] = f"{module}:TinyConfig"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=message) as e:
        prepare(config, tmp_path, None, main=True)
    assert f"task.class: '{module}:TinyConfig' -> 'tests.tiny.family:TinyConfig'" in str(e.value)
    assert message or "load_config" not in str(e.value)


@pytest.mark.parametrize(
    "name",
    [
        "flaxae.hugepages:value",  # a function is not called
        "flaxae.config:Config",
        "flaxae.models.t5_vae.task:NoConfig",
        "flaxae.nowhere.task:Config",
    ],
)
def test_only_task_configs_of_flaxae_are_built(name):
    data = config_lib.to_json(Config()) | {"task": {"class": name}}
    with pytest.raises(ConfigError, match="flaxae has no task config of that name"):
        config_lib.from_json(data)


def test_copy_is_deep_and_unfrozen():
    config = Config()
    config.freeze()
    copy = config_lib.copy_config(config, {"optim.lr": 0.5})
    copy.optim.warmup = 3
    assert (config.optim.lr, config.optim.warmup, copy.optim.lr) == (1e-3, 0, 0.5)


def test_differences_name_fields_that_may_not_change():
    old = config_lib.to_json(Config())
    new = config_lib.copy_config(
        Config(), {"optim.lr": 0.5, "steps": 9, "mesh.model": 2, "save.every": 7}
    )
    assert config_lib.differences(old, config_lib.to_json(new)) == ["optim.lr: 0.001 -> 0.5"]
    # A field that only begins like one that may change is another field.
    assert config_lib.differences({"stepsize": 1}, {"stepsize": 2}) == ["stepsize: 1 -> 2"]


def test_every_field_has_a_type_that_the_command_line_reads():
    kinds = {kind for _, kind, _ in config_lib.iterate_fields(Config())}
    plain = {int, float, bool, str, tuple}
    assert all(kind in plain or issubclass(kind, enum.Enum) for kind in kinds)
    assert dataclasses.is_dataclass(TaskConfig)
