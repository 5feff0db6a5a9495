"""Sections: config dataclasses with checked fields that are found by dotted names.

Conventions: enums for choices; 0 or "" means off; numbers have a range (see `ranges`), which is
checked when they are set.
"""

import dataclasses
import enum
import os
from collections.abc import Iterator
from typing import Any, ClassVar

from flaxae.config.ranges import LARGEST, check_value, field_rules
from flaxae.errors import ConfigError


class Section:
    """Base class of all config dataclasses: no unknown fields, read-only once frozen.

    Attributes:
        section: where a Config has the section, in messages; "": the class is named instead.
    """

    section: ClassVar[str] = ""

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_frozen"):
            raise ConfigError(f"the config is frozen once a run starts: cannot set {name!r}")
        if name not in field_types(type(self)):
            known = ", ".join(sorted(field_types(type(self))))
            raise ConfigError(
                f"{type(self).__name__} has no field {name!r}; its fields are: {known}"
            )
        check_value(type(self), name, self.dotted(name), value)
        object.__setattr__(self, name, with_home(value))

    @classmethod
    def dotted(cls, field: str) -> str:
        """Return the name of a field in messages about a section that is not part of a Config."""
        return f"{cls.section or cls.__name__}.{field}"

    def validate(self) -> None:
        """Check that the fields fit each other; raise ConfigError if they do not.

        Ranges of single fields are checked when they are set.
        """

    def freeze(self, check: bool = True) -> None:
        """Make this section and all below it read-only.

        Args:
            check: whether to validate them. A stored run's config was valid when the run began.
        """
        if check:
            self.validate()
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if isinstance(value, Section):
                value.freeze(check)
        object.__setattr__(self, "_frozen", True)


def with_home(value: Any) -> Any:
    """Return a value with the home folder in place of `~/` in each path of it."""
    if isinstance(value, dict):
        return {name: with_home(x) for name, x in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(with_home(x) for x in value)
    is_path = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return os.path.expanduser(value) if is_path else value


def field_types(cls: type) -> dict[str, Any]:
    """Return the type of each field of a config dataclass."""
    return {name: kind for name, (kind, _) in field_rules(cls).items()}


def iterate_fields(config: Section, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, type, value) of every field that is not a section."""
    for name, kind in field_types(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, Section):
            yield from iterate_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind, value


def get_field(config: Section, dotted: str) -> Any:
    """Return the value of a dotted field; raise ConfigError if there is no such field."""
    for part in dotted.split("."):
        if not isinstance(config, Section) or part not in field_types(type(config)):
            raise ConfigError(f"the config has no field {dotted!r}")
        config = getattr(config, part)
    return config


def set_field(config: Section, dotted: str, value: Any) -> None:
    """Set a dotted field.

    Raises:
        ConfigError: if the field is unknown, or the value's type or the value is not allowed.
    """
    *parents, name = dotted.split(".")
    holder = get_field(config, ".".join(parents)) if parents else config
    kinds = field_types(type(holder)) if isinstance(holder, Section) else {}
    if name not in kinds:
        raise ConfigError(
            f"the config has no field {dotted!r}; its section has: {', '.join(sorted(kinds))}"
        )
    value = coerce(value, kinds[name], dotted)
    check_value(type(holder), name, dotted, value)
    setattr(holder, name, value)


def coerce(value: Any, kind: Any, name: str) -> Any:
    """Convert a value to a field's type; raise ConfigError if it does not fit."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        if isinstance(value, kind):
            return value
        options = {m.value: m for m in kind}
        if not isinstance(value, str) or value not in options:
            raise ConfigError(f"{name}={value!r} is not one of: {', '.join(options)}")
        return options[value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) <= LARGEST else value  # the field's range refuses it
    if kind is tuple and isinstance(value, list):
        return as_tuples(value)
    if isinstance(kind, type) and (
        not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    ):
        raise ConfigError(f"{name}={value!r} is a {type(value).__name__}, not a {kind.__name__}")
    return value


def as_tuples(value: Any) -> Any:
    """Convert lists, which JSON uses for tuples, to tuples at every depth."""
    return tuple(as_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
