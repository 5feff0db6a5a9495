"""JSON files that other programs write: read as objects whose fields have the expected types."""

import json
import math
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from flaxae.errors import ConfigError, require
from flaxae.pointers import require_content

# type -> (one, several) for messages
_NAMES: dict[Any, tuple[str, str]] = {
    bool: ("a boolean", "booleans"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    dict: ("an object", "objects"),
    list: ("a list", "lists"),
    type(None): ("null", "nulls"),
}
_LISTS = (list, tuple, set, frozenset)  # the last three are a Python caller's
_SHOWN = 60  # characters of a wrong value in a message


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object that a JSON file contains.

    Raises:
        ConfigError: if it cannot be read, is a pointer file, or is not a JSON object.
    """
    require_content(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    return parse_object(text, str(path))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Return the object that JSON text contains; raise ConfigError if it is none.

    Args:
        text: the text.
        where: the file that it is from, for messages.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({error})") from None
    require(isinstance(data, dict), f"{where}: not a JSON object, but {_described(data)}")
    return data


def read_fields(path: str | Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object that a JSON file contains; fields of `kinds` have these types or are null.

    Raises:
        ConfigError: if it cannot be read, is not a JSON object, or a field has another type.
    """
    raw = read_json(path)
    check_fields(raw, kinds, f"{path}: ")
    return raw


def check_fields(raw: Mapping[str, Any], kinds: Mapping[str, Any], where: str = "") -> None:
    """Raise ConfigError for a field of another type; null counts as a missing field.

    Args:
        raw: the object.
        kinds: name of a field -> bool, int, float (finite; an int fits too), str, list, dict,
            list[X], dict[str, X], or a union of them. Other fields are not checked.
        where: beginning of the message, such as the file's path.
    """
    for name, kind in kinds.items():
        value = raw.get(name)
        problem = "" if value is None else _problem(value, kind, name)
        require(not problem, f"{where}{problem}")


def check_regex(pattern: str, name: str, used: str = "") -> None:
    """Raise ConfigError, which begins with `name`, for an invalid regular expression.

    Args:
        pattern: the regular expression.
        name: the field that it is a value of.
        used: the expression that it becomes part of; "": it is used alone.
    """
    try:
        re.compile(used or pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{name}: {pattern!r} is not a regular expression ({error})") from None


def _problem(value: Any, kind: Any, at: str) -> str:
    """Return what is wrong with a value, "" if it has the type."""
    options = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    inner = ""
    for option in options:
        if not _is(value, get_origin(option) or option):
            continue
        inner = next((p for p in _inside(value, option, at) if p), "")
        if not inner:
            return ""
    wanted = " or ".join(_wanted(option) for option in options)
    return inner or f"{at}={_shown(value)} is {_described(value)}, not {wanted}"


def _inside(value: Any, kind: Any, at: str) -> Iterable[str]:
    """Yield the problems of a value's parts, whose outer type is right."""
    if kind is float and not math.isfinite(value):
        yield f"{at}={value} is not finite"
    if kind is str and not _encodable(value):
        yield f"{at}={value!r} contains half of a character (a lone surrogate)"
    arguments = get_args(kind)
    if isinstance(value, _LISTS) and arguments:
        yield from (_problem(x, arguments[0], f"{at}[{i}]") for i, x in enumerate(value))
    if isinstance(value, Mapping) and arguments:
        for key, x in value.items():
            yield _problem(key, arguments[0], f"a key of {at}")
            yield _problem(x, arguments[1], f"{at}[{_shown(key)}]")


def _is(value: Any, kind: type) -> bool:
    """Check the outer type; true and false are not numbers."""
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, (int, float)) and _is_float(value)
    if kind is list:
        return isinstance(value, _LISTS)
    return isinstance(value, Mapping if kind is dict else kind)


def _is_float(value: int | float) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wanted(kind: Any) -> str:
    outer, arguments = get_origin(kind) or kind, get_args(kind)
    one = _NAMES[outer][0]
    inner = arguments[-1] if arguments else None
    return f"{one} of {_NAMES[inner][1]}" if inner in _NAMES else one


def _described(value: Any) -> str:
    found = next((k for k in _NAMES if k is not float and _is(value, k)), float)
    return _NAMES[found][0] if _is(value, found) else f"a {type(value).__name__}"


def _shown(value: Any) -> str:
    """Return a value as JSON, the beginning of a long one."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
