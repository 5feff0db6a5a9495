"""`--help` of commands that take a config: every field with its type, default and comment."""

import dataclasses
import enum
import inspect
import re
from collections.abc import Sequence
from typing import Any

from flaxae.config.fields import get_field, iterate_fields
from flaxae.config.sections import Config


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a command besides --config and --workdir; its type is that of the default."""

    name: str
    default: Any
    help: str


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
        default = f" (default: {option.default})" if option.default != "" else ""
        rows.append((f"--{option.name.replace('_', '-')}", option.help + default))
    lines += ["options:", *_table(rows), ""]
    note = f"as {path} sets them" if path else "add --config=FILE to see the fields of its task"
    lines.append(f"fields, with type and default ({note}):")
    rows = []
    for name, kind, value in iterate_fields(config):
        value = value.value if isinstance(value, enum.Enum) else value
        shown, comment = f"{kind_name(kind)} = {value!r}", _comment(config, name)
        rows.append((f"--config.{name}", shown + (f"  # {comment}" if comment else "")))
    return "\n".join([*lines, *_table(rows)])


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:{width}}  {text}" for name, text in rows]


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
