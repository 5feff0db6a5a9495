"""Ranges of numbers in configs and options: declared with the field, checked where it is set.

A field `dropout: Rate = 0.0` is a float in [0, 1). Its type stays float: ranges are metadata of
`Annotated`. A user's own family declares its fields in the same way.
"""

import dataclasses
import functools
import math
import numbers
import typing
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from flaxae.errors import ConfigError, UserError, require

INT32 = 2**31  # steps and sizes are int32 in a program
UINT32 = 2**32  # seeds are uint32 in a program
LARGEST = 10**300  # Python cannot convert much larger integers to a float


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of allowed numbers.

    Programs compute in float32. A float must therefore be in the interval as a float32 too: a decay
    of 0.999999999 is 1 there. NaN and infinite numbers are in no interval.

    Attributes:
        low: lower end.
        high: upper end.
        ends: "[" or "(" and "]" or ")": whether the ends are allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    ends: str = "[)"

    def __contains__(self, number: float) -> bool:
        if isinstance(number, numbers.Integral):
            return self._includes(number)
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(np.float32(number))
        if abs(rounded) < np.finfo(np.float32).tiny:  # programs round such numbers to 0
            rounded = 0.0
        return math.isfinite(rounded) and self._includes(number) and self._includes(rounded)

    def _includes(self, number: float) -> bool:
        above = number > self.low or (number == self.low and self.ends[0] == "[")
        below = number < self.high or (number == self.high and self.ends[1] == "]")
        return above and below

    @property
    def is_open(self) -> bool:
        """True if only the lower end means anything to a user."""
        return self.high in (math.inf, INT32)

    def describe(self) -> str:
        """Return the interval as `--help` shows it: "from 1", "above 0", "in [0, 1)"."""
        if self.low == -math.inf and self.is_open:
            return "finite"
        if self.is_open:
            return f"{'from' if self.ends[0] == '[' else 'above'} {self.low:g}"
        return f"in {self.ends[0]}{_text(self.low)}, {_text(self.high)}{self.ends[1]}"

    def check(self, name: str, number: Any, kind: type = float) -> None:
        """Raise ConfigError unless a number is in the interval.

        Args:
            name: name of the field or option in the message.
            number: the value.
            kind: int or float; a float may be given as an int.

        Raises:
            ConfigError: if it is outside, is not finite, or is not a number of this kind.
        """
        if not _is_number(number, kind):
            given = type(number).__name__
            raise ConfigError(f"{name}={number!r} is a {given}, not a {kind.__name__}")
        if _is_number(number, int) and abs(number) > LARGEST:
            raise ConfigError(f"{name} has more than 300 digits; it {self._demand(kind)}")
        if (float(number) if kind is float else number) not in self:
            raise ConfigError(f"{name}={number!r} {self._reason(number, kind)}")

    def _reason(self, number: float, kind: type) -> str:
        if not math.isfinite(number):
            return f"is not a finite number; it {self._demand(kind)}"
        if self._includes(number):
            with np.errstate(over="ignore", under="ignore"):
                rounded = np.float32(number)
            shown = rounded if abs(rounded) >= np.finfo(np.float32).tiny else 0.0
            return f"is {shown} in float32, the type of programs; it {self._demand(kind)}"
        if self.is_open and number >= self.high:
            return f"must be below {_text(self.high)}"
        return self._demand(kind)

    def _demand(self, kind: type) -> str:
        if self.is_open and (self.low, self.ends[0]) in ((0, "("), (1, "[")):
            return "must be positive" if self.low == 0 or kind is int else "must be at least 1"
        if self.is_open and self.low == 0:
            return "must not be negative"
        if self.is_open and self.low == -math.inf:
            return "must be finite"
        if self.is_open:
            return f"must be {'at least' if self.ends[0] == '[' else 'above'} {_text(self.low)}"
        return f"must be {self.describe()}"


@dataclasses.dataclass(frozen=True)
class Entries:
    """The allowed entries of a tuple field.

    Attributes:
        kind: str, int or float.
        range: the range of numbers; None for strings.
    """

    kind: type
    range: Range | None = None

    def check(self, name: str, values: Any) -> None:
        """Raise ConfigError unless all entries are of the kind and in the range."""
        require(
            isinstance(values, (tuple, list)),
            f"{name}={values!r} is a {type(values).__name__}, not a tuple",
        )
        for value in values:
            if self.range is not None:
                try:
                    self.range.check(name, value, self.kind)
                except ConfigError as e:
                    raise ConfigError(f"{name}={values!r}: an entry is wrong: {e}") from None
            elif not isinstance(value, self.kind):
                kind = type(value).__name__
                raise ConfigError(f"{name}={values!r}: {value!r} is a {kind}, not a str")


@dataclasses.dataclass(frozen=True)
class Checked:
    """A tuple field whose entries `validate` of its section checks."""


Rule = Range | Entries | Checked


def split_annotation(hint: Any) -> tuple[Any, Rule | None]:
    """Return the plain type of an annotation, and the rule for its values if it has one."""
    if typing.get_origin(hint) is not Annotated:
        return hint, None
    kind, *metadata = typing.get_args(hint)
    return kind, next((x for x in metadata if isinstance(x, Rule)), None)


@functools.cache
def field_rules(cls: type) -> dict[str, tuple[Any, Rule | None]]:
    """Return the plain type and the rule of each field of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: split_annotation(hints[f.name]) for f in dataclasses.fields(cls)}


def check_value(cls: type, field: str, name: str, value: Any) -> None:
    """Raise ConfigError if a value is not allowed for a field of a dataclass.

    Args:
        cls: the dataclass.
        field: the field.
        name: its name in the message.
        value: the value; None is allowed for a field that may be None.
    """
    kind, rule = field_rules(cls)[field]
    if type(None) in typing.get_args(kind):
        if value is None:
            return
        kind = next(x for x in typing.get_args(kind) if x is not type(None))
    if isinstance(rule, Range):
        rule.check(name, value, kind)
    elif isinstance(rule, Entries):
        rule.check(name, value)


def check_ranges(options: Any, prefix: str = "") -> None:
    """Raise ConfigError if a field of a dataclass that is not a Section has a value out of range.

    Args:
        options: the dataclass.
        prefix: what comes before the name of a field in the message.
    """
    for name in field_rules(type(options)):
        check_value(type(options), name, f"{prefix}{name}", getattr(options, name))


def ranged(name: str, kind: type, allowed: Range) -> Callable[[str], Any]:
    """Return the `type` of an option of `argparse`: a number in a range.

    Args:
        name: the option, for the message.
        kind: int or float.
        allowed: the range.

    Returns:
        A function that converts the option's text. It raises UserError, which `run_main` reports:
        argparse itself would print its usage too.
    """

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise UserError(f"{name}={text!r} is not of type {kind.__name__}") from None
        try:
            allowed.check(name, value, kind)
        except ConfigError as e:
            raise UserError(str(e)) from None  # argparse catches a ConfigError: it is a ValueError
        return value

    return parse


def _is_number(value: Any, kind: type) -> bool:
    """Check the type of a number; numpy's scalars are numbers too, True and False are none."""
    fits = isinstance(value, numbers.Integral if kind is int else numbers.Real)
    return fits and not isinstance(value, bool)


def _text(number: float) -> str:
    """Return a bound as a user writes it."""
    powers = {INT32: "2**31", UINT32: "2**32"}
    return powers.get(int(number) if math.isfinite(number) else 0, "") or f"{number:g}"


COUNT = Range(1, INT32)
WHOLE = Range(0, INT32)
SEEDS = Range(0, UINT32)

Count = Annotated[int, COUNT]  # at least one
Whole = Annotated[int, WHOLE]  # 0, which often means off, or more
Seed = Annotated[int, SEEDS]
Positive = Annotated[float, Range(0, ends="()")]
NonNegative = Annotated[float, Range(0)]
Rate = Annotated[float, Range(0, 1)]  # a probability or a decay, below 1
Share = Annotated[float, Range(0, 1, "[]")]
Finite = Annotated[float, Range()]
Counts = Annotated[tuple, Entries(int, COUNT)]
Wholes = Annotated[tuple, Entries(int, WHOLE)]
Strings = Annotated[tuple, Entries(str)]
