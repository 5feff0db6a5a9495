"""Config files: Python files whose `get_config()` returns a `Config`."""

import runpy
import sys
import traceback
import types
import typing
from typing import Any

from flaxae.config.fields import Section
from flaxae.config.locate import locate, split_preset
from flaxae.config.ranges import field_rules
from flaxae.config.sections import Config
from flaxae.errors import ConfigError

# Module name of the classes that a config file defines. config.json of older runs contains it too,
# so another name would make them runs of another config.
MODULE = "config_config"


def load_config(path: str) -> Config:
    """Return the config that `get_config()` of a config file returns.

    Args:
        path: the file's path (see `locate`); the preset behind a ":" is passed to `get_config`.

    Raises:
        ConfigError: if the file does not exist, fails, or does not return a Config.
    """
    named, colon, preset = split_preset(path)
    located = locate(named)
    if located is None:
        raise ConfigError(f"--config={path}: there is no file {named}")
    file = str(located)
    try:
        names = _run(file)
        if "get_config" not in names:
            raise ConfigError("the file has no get_config()")
        config = names["get_config"](preset) if colon else names["get_config"]()
    except Exception as e:  # the user's code may raise any exception
        raise _config_error(file, e) from None
    if not isinstance(config, Config):
        raise ConfigError(
            f"--config={path}: get_config() returned a {type(config).__name__}, not a flaxae Config"
        )
    return config


def _run(file: str) -> dict[str, Any]:
    """Execute a file and return its names."""
    namespace = runpy.run_path(file, run_name=MODULE)
    # Reading the annotations and the source of the file's classes needs the module.
    module = types.ModuleType(MODULE)
    vars(module).update(namespace)
    sys.modules[MODULE] = module
    field_rules.cache_clear()  # a file that used a class before its module was there
    for cls in namespace.values():
        if isinstance(cls, type) and issubclass(cls, Section) and cls.__module__ == MODULE:
            _resolve_annotations(cls)
    return namespace


def _resolve_annotations(cls: type[Section]) -> None:
    """Replace annotations that are strings by types, before another file replaces the module."""
    hints = typing.get_type_hints(cls, include_extras=True)
    cls.__annotations__.update({name: hints[name] for name in cls.__annotations__})


def _config_error(file: str, error: Exception) -> ConfigError:
    if isinstance(error, ConfigError):
        return ConfigError(f"{file}: {error}")
    if isinstance(error, SyntaxError) and error.filename == file:
        return ConfigError(f"{file}, line {error.lineno}: {error.msg}")
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    at = f", line {lines[-1]}" if lines else ""
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = (
            "; if it is a file of your own, start the command with PYTHONPATH=FOLDER (the folder "
            "that contains it), or install your repository: pip install -e FOLDER"
        )
    return ConfigError(f"{file}{at}: {type(error).__name__}: {error}{hint}")
