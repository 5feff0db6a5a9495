"""Typed configs: fields, types, freezing, JSON and differences."""

import dataclasses
import enum

import pytest

from flaxae import config as config_lib
from flaxae.config import Config, OptimConfig, Optimizer, TaskConfig
from flaxae.errors import ConfigError
from tests.tiny.family import TinyConfig


def test_unknown_field_names_the_known_ones():
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
def test_set_field_refuses(field, value, message):
    with pytest.raises(ConfigError, match=message):
        config_lib.set_field(Config(), field, value)


def test_frozen_all_the_way_down():
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
    config = config_lib.copy_config(Config(), {field: value})
    with pytest.raises(ConfigError, match=field.split(".")[0]):
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


def test_foreign_classes_are_not_imported():
    data = config_lib.to_json(Config()) | {"task": {"class": "os:system"}}
    with pytest.raises(ConfigError, match="config_class"):
        config_lib.from_json(data)


def test_copy_is_deep_and_unfrozen():
    config = Config()
    config.freeze()
    copy = config_lib.copy_config(config, {"optim.lr": 0.5})
    copy.optim.warmup = 3
    assert (config.optim.lr, config.optim.warmup, copy.optim.lr) == (1e-3, 0, 0.5)


def test_differences_name_what_may_not_change():
    old = config_lib.to_json(Config())
    new = config_lib.copy_config(
        Config(), {"optim.lr": 0.5, "steps": 9, "mesh.model": 2, "save.every": 7}
    )
    assert config_lib.differences(old, config_lib.to_json(new)) == ["optim.lr: 0.001 -> 0.5"]


def test_every_field_has_a_type_that_the_command_line_reads():
    kinds = {kind for _, kind, _ in config_lib.iterate_fields(Config())}
    plain = {int, float, bool, str, tuple}
    assert all(kind in plain or issubclass(kind, enum.Enum) for kind in kinds)
    assert dataclasses.is_dataclass(TaskConfig)
