"""What typed configs are made of: sections of checked fields, found and set by dotted names.

Conventions: enums for choices, 0 or "" means off, tuples are checked by `validate()`.
"""

import dataclasses
import enum
import typing
from typing import Any

from flaxae.errors import ConfigError


class Section:
    """Base of all config dataclasses: no unknown fields, no writes once frozen."""

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_frozen"):
            raise ConfigError(f"the config is frozen once a run starts: cannot set {name!r}")
        if name not in field_types(type(self)):
            known = ", ".join(sorted(field_types(type(self))))
            raise ConfigError(
                f"{type(self).__name__} has no field {name!r}; its fields are: {known}"
            )
        object.__setattr__(self, name, value)

    def validate(self) -> None:
        """Checks what types cannot say. Raises ConfigError."""

    def freeze(self) -> None:
        """Validates and freezes this section and all below it."""
        self.validate()
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if isinstance(value, Section):
                value.freeze()
        object.__setattr__(self, "_frozen", True)


def field_types(cls: type) -> dict[str, Any]:
    """Name -> type of a config dataclass's fields."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def iterate_fields(config: Section, prefix: str = ""):
    """Yields (dotted name, type, value) of every leaf field."""
    for name, kind in field_types(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, Section):
            yield from iterate_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind, value


def get_field(config: Section, dotted: str) -> Any:
    """The value of a dotted field. Raises ConfigError where there is none."""
    for part in dotted.split("."):
        if not isinstance(config, Section) or part not in field_types(type(config)):
            raise ConfigError(f"the config has no field {dotted!r}")
        config = getattr(config, part)
    return config


def set_field(config: Section, dotted: str, value: Any) -> None:
    """Sets a dotted field, type-checked. Raises ConfigError."""
    *parents, name = dotted.split(".")
    holder = get_field(config, ".".join(parents)) if parents else config
    kinds = field_types(type(holder)) if isinstance(holder, Section) else {}
    if name not in kinds:
        raise ConfigError(
            f"the config has no field {dotted!r}; beside it are: {', '.join(sorted(kinds))}"
        )
    setattr(holder, name, coerce(value, kinds[name], dotted))


def coerce(value: Any, kind: Any, name: str) -> Any:
    """A value as a field's type. Raises ConfigError where it is of another."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        if isinstance(value, kind):
            return value
        options = {m.value: m for m in kind}
        if value not in options:
            raise ConfigError(f"{name}={value!r} is not one of: {', '.join(options)}")
        return options[value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is tuple and isinstance(value, list):
        return as_tuples(value)
    if isinstance(kind, type) and (
        not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    ):
        raise ConfigError(f"{name}={value!r} is a {type(value).__name__}, not a {kind.__name__}")
    return value


def as_tuples(value: Any) -> Any:
    """Lists, as JSON has them, as tuples, at every depth."""
    return tuple(as_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
