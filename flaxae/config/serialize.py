"""Configs as JSON: writing, reading, comparing, and the hash that names a run."""

import enum
import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from flaxae.config.fields import Section, field_types, get_field, set_field
from flaxae.config.files import load_config
from flaxae.config.sections import Config, DataConfig, TaskConfig
from flaxae.errors import ConfigError, require

# A task's config class, or the config file of its runs.
ConfigClass = type[TaskConfig] | str | Path

# Fields that a resumed run may change; any other difference is an error.
RESUMABLE = (
    "steps",
    "optim.decay_steps",  # only if it is given: see flaxae.config.horizon
    "mesh",
    "data.prefetch",
    "steps_per_call",
    "max_bad_steps",
    "log",
    "eval",
    "save",
    "profile",
)

# Fields that were in every family's data section, with values that changed nothing.
_MOVED_FIELDS: dict[str, tuple[Any, ...]] = {
    "name": ("python_lines", ""),
    "path": ("",),
    "max_length": (32,),
    "num_buckets": (4,),
    "long_lines": ("skip",),
    "vocab_size": (4096,),
    "max_lines": (0,),
    "labels": (False,),
    "tokenizer": ("",),
    "tokenizer_kind": ("bpe",),
    "ids_tokenizer": ("",),
    "bucket_edges": ([],),
}


def to_json(config: Section) -> dict[str, Any]:
    """Convert a config to plain JSON types; the task's section names its class under "class"."""
    out: dict[str, Any] = {}
    if isinstance(config, TaskConfig):
        out["class"] = f"{type(config).__module__}:{type(config).__qualname__}"
    for name in field_types(type(config)):
        value = getattr(config, name)
        if isinstance(value, Section):
            out[name] = to_json(value)
        else:
            out[name] = (
                value.value if isinstance(value, enum.Enum) else json.loads(json.dumps(value))
            )
    return out


def from_json(
    data: dict[str, Any],
    config_class: ConfigClass | None = None,
    source: str | Path = "config.json",
) -> Config:
    """Convert the output of `to_json` back to a config.

    Args:
        data: contents of a workdir's config.json.
        config_class: the task's config class, or the path of its config file; needed if the class
            is not part of `flaxae`.
        source: name of the folder in messages.

    Raises:
        ConfigError: if the class is not part of `flaxae`, is not the one of the run, or its fields
            do not match.
    """
    check_sections(data, source)
    name = str(data.get("task", {}).get("class", ""))
    if config_class is not None:
        found = task_config_class(config_class, name, source)
    else:
        found = own_task_config(name)
    if found is None:
        raise ConfigError(
            f"{source} is a run of {name or 'an unknown task'}, which is not part of flaxae: give "
            "the config file that it was trained with, --config=FILE for a command and "
            "config_class='FILE' (or the task's config class) in Python"
        )
    config = Config(task=found())
    _fill(config, without_moved_fields(data, found.data_class))
    return config


def task_config_class(given: ConfigClass, name: str, source: str | Path) -> type[TaskConfig]:
    """Return the task config class that a caller gave for a run.

    Args:
        given: the class, or the path of a config file whose task has it.
        name: "module:class", as the run's config.json names it; "": any class is accepted.
        source: name of the run in messages.

    Raises:
        ConfigError: if it is neither, or a class of another name.
    """
    if isinstance(given, (str, Path)):
        given = type(load_config(str(given)).task)
    if not (isinstance(given, type) and issubclass(given, TaskConfig)):
        raise ConfigError(
            f"config_class={given!r} is neither a task's config class nor the path of a config "
            "file; type(flaxae.config.flags.load_config('FILE').task) is the class of a file"
        )
    expected = name.rpartition(":")[2]
    require(
        expected in ("", given.__qualname__),
        f"{source} is a run of {expected}, but the given config is of {given.__qualname__}: give "
        "the config file that the run was trained with",
    )
    return given


def own_task_config(name: str) -> type[TaskConfig] | None:
    """Import one of flaxae's task config classes.

    Args:
        name: "module:class", as a config.json names it.

    Returns:
        The class; None if the module is not part of flaxae.

    Raises:
        ConfigError: flaxae has no task config of this name.
    """
    module, _, attribute = name.partition(":")
    if not module.startswith("flaxae."):
        return None
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as e:
        if isinstance(e, ModuleNotFoundError) and not module.startswith(str(e.name)):
            raise  # the module exists, and imports a package that is not installed
        found = None
    if not (isinstance(found, type) and issubclass(found, TaskConfig)):
        raise ConfigError(f"it is a run of {name}, and flaxae has no task config of that name")
    return found


def check_sections(data: Any, source: str | Path) -> None:
    """Raise ConfigError unless a config's JSON and the sections in it are objects.

    Args:
        data: contents of a config.json.
        source: where it is from, for the message.
    """
    require(isinstance(data, dict), f"{source}: its config is not a JSON object")
    for name, kind in field_types(Config).items():
        if issubclass(kind, Section):
            value = data.get(name, {})
            require(isinstance(value, dict), f"{source}: its section {name} is not a JSON object")


def without_moved_fields(data: dict[str, Any], data_class: type[DataConfig]) -> dict[str, Any]:
    """Return a config's JSON without fields of texts that its family's data section has lost.

    Until November 2026 all families had the data section of texts.

    Args:
        data: contents of a config.json.
        data_class: class of the family's data section.

    Raises:
        ConfigError: if such a field was set, and its value would be lost.
    """
    section, fields = data.get("data", {}), field_types(data_class)
    lost = {name: section[name] for name in _MOVED_FIELDS if name in section and name not in fields}
    for name, value in lost.items():
        if value not in _MOVED_FIELDS[name]:
            raise ConfigError(
                f"config.json sets data.{name}={value!r}, but a {data_class.__name__} no longer has"
                " this field: remove it from the file if the run never used it"
            )
    return {**data, "data": {k: v for k, v in section.items() if k not in lost}}


def _fill(config: Config, data: dict[str, Any], prefix: str = "") -> None:
    """Set the fields of a config, or of the section that `prefix` names, to those of its JSON."""
    for name, value in data.items():
        dotted = f"{prefix}{name}"
        if dotted == "task.class":
            continue
        if isinstance(value, dict) and isinstance(get_field(config, dotted), Section):
            _fill(config, value, f"{dotted}.")
        else:
            set_field(config, dotted, value)


def flatten_json(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Replace nested dicts by dotted names: {"a": {"b": 1}} -> {"a.b": 1}."""
    out = {}
    for name, value in data.items():
        out |= (
            flatten_json(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return out


def differences(
    old: dict[str, Any], new: dict[str, Any], allowed: tuple[str, ...] = RESUMABLE
) -> list[str]:
    """Return one line "field: old -> new" per difference of two configs that is not allowed.

    Args:
        old: JSON of the stored config.
        new: JSON of the new config.
        allowed: fields and sections that may differ.
    """
    a, b = flatten_json(old), flatten_json(new)
    lines = []
    for name in sorted(a.keys() | b.keys()):
        free = any(name == x or name.startswith(x + ".") for x in allowed)
        if not free and a.get(name) != b.get(name):
            lines.append(f"{name}: {a.get(name)!r} -> {b.get(name)!r}")
    return lines


def config_hash(config: Config) -> str:
    """Return ten hex digits that name a config, for example a run of a sweep."""
    return hashlib.sha256(json.dumps(to_json(config), sort_keys=True).encode()).hexdigest()[:10]


def copy_config(config: Config, overrides: dict[str, Any] | None = None) -> Config:
    """Return an unfrozen copy with values of dotted fields replaced."""
    new = Config(task=type(config.task)(), data=type(config.data)())
    _fill(new, to_json(config))
    for name, value in (overrides or {}).items():
        set_field(new, name, value)
    return new
