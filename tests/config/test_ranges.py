"""Ranges of numeric fields: each field has one, and no value outside of it is accepted."""

import ast
import dataclasses
import json
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import flaxae
from flaxae.config import (
    Config,
    OptimConfig,
    TaskConfig,
    config_hash,
    copy_config,
    flags,
    from_json,
    get_field,
    iterate_fields,
    set_field,
    to_json,
)
from flaxae.config.ranges import Entries, Range, field_rules
from flaxae.errors import ConfigError
from flaxae.models.looped.text.task import TextConfig
from flaxae.models.t5_vae.task import T5VAEConfig
from tests.config.families import config_classes, task_configs
from tests.helpers import ROOT

BAD = (-1, 0, 1, 2.5, 2**31, 2**32, -1.0, 0.0, 1.0, 1e-60, 1e60, math.nan, math.inf, -math.inf)
TASKS = task_configs()


def test_every_number_of_every_config_has_a_range():
    classes = config_classes()
    assert len(classes) > 20
    without = [
        f"{cls.__name__}.{name}"
        for cls in classes
        for name, (kind, rule) in field_rules(cls).items()
        if rule is None and {int, float, tuple} & {kind, *typing.get_args(kind)}
    ]
    assert not without, f"declare a range (flaxae.config.ranges): {', '.join(without)}"


def numeric(config: Config) -> list[tuple[str, Any, Any]]:
    """Return (dotted name, type, rule) of the numeric fields of a config."""
    out = []
    for name, kind, _ in iterate_fields(config):
        holder: Any = config
        *parents, leaf = name.split(".")
        for parent in parents:
            holder = getattr(holder, parent)
        rule = field_rules(type(holder))[leaf][1]
        if isinstance(rule, (Range, Entries)):
            out.append((name, kind, rule))
    return out


def expected(rule: Any, kind: Any, value: float) -> bool:
    """Decide in another way than Range, with float32 arithmetic, if a value is allowed."""
    if kind is int and not isinstance(value, int):
        return False
    if not math.isfinite(value):
        return False
    rounded = value
    if kind is float:
        with np.errstate(over="ignore"):
            rounded = float(np.float32(value))
        rounded = 0.0 if abs(rounded) < 1.2e-38 else rounded
    low = all(x > rule.low or (x == rule.low and rule.ends[0] == "[") for x in (value, rounded))
    high = all(x < rule.high or (x == rule.high and rule.ends[1] == "]") for x in (value, rounded))
    return low and high and math.isfinite(rounded)


@pytest.mark.parametrize("task", TASKS)
def test_values_out_of_range_are_one_message_on_every_way(task):
    """Flags, JSON and Python: the dotted name, the value, and what is allowed."""
    base = Config(task=task())
    stored = to_json(base)
    fields = [field for field in numeric(base) if isinstance(field[2], Range)]
    assert len(fields) > 30
    for name, kind, rule in fields:
        parent, _, leaf = name.rpartition(".")
        holder = get_field(base, parent) if parent else base
        ways: dict[str, Callable[[Any], Any]] = {
            "field": lambda value, name=name: set_field(base, name, value),
            "attribute": lambda value, h=holder, f=leaf: setattr(h, f, value),
            "flag": lambda value, name=name: flags.override(base, name, str(value)),
        }
        for value in BAD:
            ok = expected(rule, kind, value)
            for way, make in ways.items():
                if way == "flag" and kind is int and not isinstance(value, int):
                    continue  # not of type int
                try:
                    make(value)
                except ConfigError as e:
                    assert not ok, f"{way}: {e}"
                    assert str(e).startswith(f"{name}=") and "\n" not in str(e), str(e)
                    words = ("must", "not a int", "in float32")
                    assert any(word in str(e) for word in words), str(e)
                else:
                    assert ok, f"{way}: {name}={value} was accepted"
        data = json.loads(json.dumps(stored))
        section = data
        for part in parent.split(".") if parent else []:
            section = section[part]
        section[leaf] = math.nan
        with pytest.raises(ConfigError, match=f"^{name}=nan"):
            from_json(data, task)


WRONG = (None, True, -1, 10**400, math.nan, "", "x", [], [None], [[]], {}, {"a": 1}, "\0")


@given(st.data())
def test_a_stored_config_with_a_wrong_value_is_one_message(data):
    """A config.json in which a field or a section is replaced by any JSON value."""
    stored = json.loads(json.dumps(to_json(Config(task=T5VAEConfig()))))
    section = stored
    while True:
        name = data.draw(st.sampled_from(sorted(section)))
        if not isinstance(section[name], dict) or data.draw(st.booleans()):
            break
        section = section[name]
    section[name] = data.draw(st.sampled_from(WRONG))
    try:
        again = to_json(from_json(stored))
    except ConfigError as e:
        assert "\n" not in str(e) and name in str(e)
    else:
        again["task"]["class"] = stored["task"]["class"]
        # Equal, but for sections that are not given.
        assert section[name] == {} or json.loads(json.dumps(again)) == stored


@pytest.mark.parametrize("stored", [None, [], 3, "x", {"task": []}, {"data": 3}])
def test_a_stored_config_that_is_no_object_is_one_message(stored):
    with pytest.raises(ConfigError, match="is not a JSON object"):
        from_json(stored, T5VAEConfig)


@given(st.data(), st.text(max_size=8) | st.floats().map(str) | st.integers().map(str))
def test_any_text_for_any_field_is_a_value_or_one_message(data, text):
    config = Config(task=TextConfig())
    name = data.draw(st.sampled_from([name for name, _, _ in iterate_fields(config)]))
    try:
        flags.override(config, name, text)
        flags.validate(config)
    except ConfigError as e:
        assert "\n" not in str(e)
    else:
        assert json.dumps(to_json(config), allow_nan=False)


def test_tuples_of_numbers_are_checked_by_entry():
    base = Config(task=TextConfig())
    for name, value in [
        ("profile", (-1, 3)),
        ("profile", (0, math.nan)),
        ("profile", ("a", 3)),
        ("data.bucket_edges", (0, 32)),
        ("data.bucket_edges", (True, 32)),
        ("task.report_loops", (1, 2.5)),
        ("eval.splits", (5,)),
    ]:
        with pytest.raises(ConfigError, match=f"^{name}="):
            copy_config(base, {name: value})
    with pytest.raises(ConfigError, match="OptimConfig|optim.groups"):
        copy_config(base, {"optim.groups": (("a", 1.0, math.nan),)}).optim.validate()
    for groups, message in [
        ((("a", -1.0, 0.0),), "a multiplier=-1.0 must not be negative"),
        ((("(", 1.0, 0.0),), "'\\(' is not a regular expression"),
        ((("a", True, 0.0),), "is a bool"),
        ((("a", 1.0),), "is not \\(path regex"),
    ]:
        with pytest.raises(ConfigError, match=message):
            OptimConfig(groups=groups).validate()


@given(st.floats() | st.integers(-(2**40), 2**40))
@example(1 - 1e-12)
@example(5e-324)
@example(3.5e38)
def test_a_float_in_a_range_is_in_it_as_a_float32(number):
    for rule in (Range(), Range(0), Range(0, ends="()"), Range(0, 1), Range(-50, 50, "[]")):
        if isinstance(number, float):
            assert (number in rule) == expected(rule, float, number)
        elif number in rule:
            assert rule.low <= number <= rule.high


def test_messages_name_the_range():
    def message(**fields: Any) -> str:
        with pytest.raises(ConfigError) as e:
            OptimConfig(**fields)
        return str(e.value)

    assert message(clip_norm=-1) == "optim.clip_norm=-1 must not be negative"
    assert message(lr=math.nan) == "optim.lr=nan is not a finite number; it must not be negative"
    assert message(b1=1.0) == "optim.b1=1.0 must be in [0, 1)"
    assert message(ema=1 - 1e-12).endswith(
        "is 1.0 in float32, the type of programs; it must be in [0, 1)"
    )
    assert message(eps=1e-60).endswith(
        "is 0.0 in float32, the type of programs; it must be positive"
    )
    assert message(warmup=2**31) == "optim.warmup=2147483648 must be below 2**31"
    assert message(lr=10**400) == "optim.lr has more than 300 digits; it must not be negative"
    assert "is inf in float32" in message(lr=10**39)
    assert message(lr="high") == "optim.lr='high' is a str, not a float"
    with pytest.raises(ConfigError, match=r"^seed=-1 must be in \[0, 2\*\*32\)$"):
        Config(seed=-1)


def test_a_family_outside_flaxae_declares_ranges_too():
    @dataclasses.dataclass
    class Mine(TaskConfig):
        depth: Annotated[int, Range(2, 9, "[]")] = 3
        free: float = 1.0  # undeclared: any number

    with pytest.raises(ConfigError, match=r"^task.depth=10 must be in \[2, 9\]$"):
        copy_config(Config(task=Mine()), {"task.depth": 10})
    assert Mine(free=math.inf).free == math.inf


def test_ranges_do_not_change_what_a_config_is():
    """Names of stored runs hang on the hash."""
    rows = (ROOT / "configs/t5_vae/baselines.jsonl").read_text().splitlines()
    from configs.t5_vae import baselines

    for row in map(json.loads, rows):
        overrides = {**baselines.VARIANTS[row["variant"]], "seed": row["seed"]}
        config = copy_config(baselines.get_config(row["dataset"]), overrides)
        assert config_hash(config) == row["run"]
    assert to_json(OptimConfig(lr=1))["lr"] == 1  # not converted


def test_numeric_options_of_commands_have_ranges():
    """`type=int` and `type=float` of argparse accept anything."""
    bare = []
    for path in sorted(Path(flaxae.__path__[0]).rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "argparse" in text else ():
            if isinstance(node, ast.Call):
                bare += [
                    f"{path.relative_to(ROOT)}:{node.lineno}"
                    for word in node.keywords
                    if word.arg == "type"
                    and isinstance(word.value, ast.Name)
                    and word.value.id in ("int", "float")
                ]
    assert not bare, f"use flaxae.config.ranges.ranged: {', '.join(bare)}"
