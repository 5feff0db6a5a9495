"""Command lines over typed configs: one message per mistake, and `--help` with every field."""

import ast
import dataclasses
import difflib
import enum
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flaxae.config.fields import Section, iterate_fields, set_field
from flaxae.config.files import load_config
from flaxae.config.help import Option, help_text, kind_name
from flaxae.config.sections import Config
from flaxae.errors import ConfigError

WORDS = re.compile(r"[\w./-]+(,[\w./-]+)*")
# Errors of ast.literal_eval: not a literal, an unhashable key, nested too deeply.
UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
PARSERS: dict[Any, Callable[[str], Any]] = {
    bool: lambda text: BOOLEANS[text.lower()],
    int: lambda text: int(text, 0 if re.match("[+-]?0[xo]", text, re.IGNORECASE) else 10),
    float: float,
}


class Parsed(NamedTuple):
    """Parts of a command line.

    Attributes:
        config: the config with its overrides.
        workdir: the run's folder; "" if the command needs none.
        extra: values of the command's own options.
    """

    config: Config
    workdir: str
    extra: dict[str, Any]


def parse(
    argv: Sequence[str],
    options: Sequence[Option] = (),
    usage: str = "",
    workdir: bool = True,
) -> Parsed:
    """Parse `PROGRAM --config=FILE[:PRESET] --workdir=DIR [--config.FIELD=VALUE ...]`.

    Args:
        argv: the command line, the program's name first.
        options: options of the command besides the config and the workdir.
        usage: one line for `--help` that describes the command.
        workdir: whether the command needs a workdir.

    Returns:
        The valid config, not frozen, with the workdir and the options' values.

    Raises:
        ConfigError: one message that names the argument and the way out.
        SystemExit: code 0, after `--help`.
    """
    if workdir:
        options = (Option("workdir", "", "the run's folder: created, or resumed from"), *options)
    own = {option.name: option for option in options}
    extra = {name: option.default for name, option in own.items()}
    path, overrides, wants_help = "", [], False
    arguments = list(argv[1:])
    while arguments:
        name, text = _split(arguments.pop(0))
        if name in ("help", "h"):
            wants_help = True
        elif name.removeprefix("no").startswith("config."):
            overrides.append(_override(name, text, arguments))
        elif name == "config":
            path = _value(name, text, arguments)
        elif name in own:
            default = own[name].default
            if text is None and isinstance(default, bool):
                text = "true"
            value = _convert(_value(name, text, arguments), type(default), f"--{name}")
            if (allowed := own[name].allowed) is not None:
                allowed.check(f"--{name}", value, type(default))
            extra[name] = value
        else:
            fields = iterate_fields(load_config(path) if path else Config())
            known = ["config", *own, *(f"config.{field}" for field, _, _ in fields)]
            raise ConfigError(f"unknown option --{name}; {_near(name, known, '--')}")
    config = load_config(path) if path else None
    if wants_help:
        print(help_text(argv[0], path, config or Config(), options, usage))
        raise SystemExit(0)
    if config is None:
        raise ConfigError(
            "--config is missing, for example --config=configs/t5_vae/python_lines.py"
        )
    if workdir and not extra["workdir"]:
        raise ConfigError("--workdir is missing: the run's folder, for example runs/x")
    for name, text in overrides:
        override(config, name, text)
    validate(config)
    return Parsed(config, str(extra.pop("workdir", "")), extra)


def override(config: Config, name: str, text: str | None) -> None:
    """Set a dotted field from the text of a command line.

    Args:
        config: the config to change.
        name: dotted name of the field.
        text: the value as text; None for a boolean flag without a value.

    Raises:
        ConfigError: if there is no such field (the message names similar ones), or the text does
            not fit its type.
    """
    kinds = {field: kind for field, kind, _ in iterate_fields(config)}
    if name not in kinds:
        inside = [field for field in kinds if field.startswith(f"{name}.")]
        if inside:
            raise ConfigError(
                f"--config.{name} is a section; set one of its fields: {', '.join(inside)}"
            )
        section = name.rpartition(".")[0]
        inside = [field for field in kinds if field.startswith(f"{section}.")] if section else []
        raise ConfigError(
            f"the config has no field {name!r}; {_near(name, list(kinds), '', inside)}"
        )
    kind = kinds[name]
    if text is None:
        if kind is not bool:
            raise ConfigError(f"--config.{name} needs a value of type {kind_name(kind)}")
        text = "true"
    set_field(config, name, _convert(text, kind, f"--config.{name}"))


def validate(section: Section) -> None:
    """Check a section and all below it; raise ConfigError if a value is not allowed."""
    section.validate()
    for field in dataclasses.fields(section):  # pyright: ignore[reportArgumentType]
        value = getattr(section, field.name)
        if isinstance(value, Section):
            validate(value)


def _split(argument: str) -> tuple[str, str | None]:
    """Split an argument: "--a.b=c" -> ("a.b", "c"); "--a-b" -> ("a_b", None)."""
    if not re.match(r"--?[a-zA-Z]", argument):
        raise ConfigError(f"unexpected argument {argument!r}: options are --NAME=VALUE")
    name, equals, text = argument.lstrip("-").partition("=")
    return name.replace("-", "_"), text if equals else None


def _value(name: str, text: str | None, arguments: list[str]) -> str:
    if text is None:
        if not arguments or arguments[0].startswith("--"):
            raise ConfigError(f"--{name} needs a value: --{name}=VALUE")
        text = arguments.pop(0)
    return text


def _override(name: str, text: str | None, arguments: list[str]) -> tuple[str, str | None]:
    """Parse --config.x=v, --config.x v, --config.flag or --noconfig.flag."""
    if name.startswith("noconfig."):
        if text is not None:
            raise ConfigError(f"--{name} takes no value; use --{name[2:]}={text}")
        return name.removeprefix("noconfig."), "false"
    if text is None and arguments and not arguments[0].startswith("--"):
        text = arguments.pop(0)
    return name.removeprefix("config."), text


def _convert(text: str, kind: Any, name: str) -> Any:
    if kind is tuple:
        return _literal(text, name)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return text  # set_field converts it, and lists the choices if it is none of them
    try:
        return PARSERS[kind](text) if kind in PARSERS else text
    except (KeyError, ValueError):
        raise ConfigError(f"{name}={text!r} is not of type {kind_name(kind)}") from None


def _literal(text: str, name: str) -> tuple:
    """Parse a tuple written as a Python literal; bare words (dev,test) are strings."""
    try:
        value = ast.literal_eval(text.strip() or "()")
    except UNREADABLE:
        if not WORDS.fullmatch(text):
            raise ConfigError(
                f"{name}={text!r} is not a tuple, for example (10, 13) or dev,test"
            ) from None
        value = text.split(",")
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _near(name: str, known: list[str], prefix: str = "", section: Sequence[str] = ()) -> str:
    """Return the names that are similar, or those of the section, as the end of a message."""
    leaf = name.rsplit(".", 1)[-1]
    near = [field for field in known if field.rsplit(".", 1)[-1] == leaf]
    near += [f for f in difflib.get_close_matches(name, known, n=3, cutoff=0.7) if f not in near]
    if not near and section:
        return f"its section has: {', '.join(section)}"
    if not near:
        return "--help lists them all"
    return (
        f"did you mean {' or '.join(prefix + field for field in near[:3])}? --help lists them all"
    )
