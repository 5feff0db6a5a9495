"""`--help` of commands that take a config: every field with its type, default and comment."""

import dataclasses
import enum
import inspect
import re
from collections.abc import Sequence
from typing import Any

from flaxae.config.fields import get_field, iterate_fields
from flaxae.config.ranges import Entries, Range, field_rules
from flaxae.config.sections import Config


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a command besides --config and --workdir; its type is that of the default.

    Attributes:
        name: its name, with "_" for "-".
        default: the value if it is not given.
        help: what it does.
        allowed: the range of a number; None for other types.
    """

    name: str
    default: Any
    help: str
    allowed: Range | None = None


def kind_name(kind: Any) -> str:
    """Return a field's type in the form that users type."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "|".join(str(member.value) for member in kind)
    return getattr(kind, "__name__", str(kind))


def help_text(
    program: str, path: str, config: Config, options: Sequence[Option], usage: str
) -> str:
    """Return the text of `--help`: the command, its options and every field of the config."""
    lines = [
        f"usage: {program} --config=FILE[:PRESET] [OPTION ...] [--config.FIELD=VALUE ...]",
        "",
    ]
    if usage:
        lines += [usage, ""]
    rows = [
        (
            "--config",
            "config file, and after a colon its preset: configs/t5_vae/python_lines.py:quick",
        )
    ]
    for option in options:
        allowed = f"; {option.allowed.describe()}" if option.allowed else ""
        default = f" (default: {option.default}{allowed})" if option.default != "" else ""
        rows.append((f"--{option.name.replace('_', '-')}", option.help + default))
    lines += ["options:", *_table(rows), ""]
    note = f"as {path} sets them" if path else "add --config=FILE to see the fields of its task"
    lines.append(f"fields, with type and default ({note}):")
    rows = []
    for name, _, value in iterate_fields(config):
        value = value.value if isinstance(value, enum.Enum) else value
        shown, comment = f"{_kind(config, name)} = {value!r}", _comment(config, name)
        rows.append((f"--config.{name}", shown + (f"  # {comment}" if comment else "")))
    return "\n".join([*lines, *_table(rows)])


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:{width}}  {text}" for name, text in rows]


def _kind(config: Config, name: str) -> str:
    """Return a field's type with its range."""
    parents, _, leaf = name.rpartition(".")
    kind, rule = field_rules(type(get_field(config, parents) if parents else config))[leaf]
    if isinstance(rule, Range):
        return f"{kind_name(kind)} {rule.describe()}"
    if isinstance(rule, Entries) and rule.range is not None:
        return f"{kind_name(kind)} of {kind_name(rule.kind)} {rule.range.describe()}"
    return kind_name(kind)


def _comment(config: Config, name: str) -> str:
    """Return the comment behind a field in the source of its dataclass."""
    parents, _, leaf = name.rpartition(".")
    holder = get_field(config, parents) if parents else config
    for cls in type(holder).__mro__[:-1]:
        try:
            source = inspect.getsource(cls)
        except (OSError, TypeError):
            continue
        found = re.search(rf"^    {leaf}\s*:[^#\n]*#\s*(.+)$", source, re.MULTILINE)
        if found and not found[1].startswith("pyright"):
            return found[1]
    return ""
