"""CSV, TSV, JSON and text files as columns whose texts are not changed.

Cells of a CSV file are texts: "NA", "null" and "007" stay what they are. In JSON, texts that look
like dates stay texts.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from flaxae.data.folders import named
from flaxae.data.lines import decoded, numbered_lines
from flaxae.data.text import unicode_fault
from flaxae.errors import ConfigError

KNOWN = ("text", "label")  # names that only a header contains
_HEADER_WORDS, _HEADER_LENGTH = 2, 60  # a longer cell is a text, not a name
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Records(NamedTuple):
    """Columns of a file or of several.

    Attributes:
        columns: values by name of the column, None where a record has no value.
        notes: remarks, such as what was read as a header.
    """

    columns: dict[str, list[Any]]
    notes: list[str]


def read_records(kind: str, paths: Sequence[str], wanted: Iterable[str] = ()) -> Records:
    """Read files of one kind.

    Args:
        kind: "csv", "json" or "text".
        paths: the files.
        wanted: names of columns that are asked for, by which a header is recognised.

    Raises:
        ConfigError: if a file cannot be read; it names the file and the line.
    """
    if kind == "text":
        return Records({"text": [x for p in paths for _, x in numbered_lines(p, repr(p))]}, [])
    if kind == "csv":
        return _csv_files(paths, (*KNOWN, *wanted))
    rows = [row for path in paths for _, row in json_rows(path, repr(path))]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _one_kind([row.get(name) for row in rows]) for name in names}
    if not columns:
        raise ConfigError(f"{named(list(map(repr, paths)))} contains no records")
    odd = [name for name, values in columns.items() if not _fits_arrow(values)]
    notes = [f"{name!r} is not read: its values are of several kinds" for name in odd]
    return Records({name: x for name, x in columns.items() if name not in odd}, notes)


def _fits_arrow(values: list[Any]) -> bool:
    """Return True if arrow can store the values of a column, which must be of one kind."""
    import pyarrow

    try:
        pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True


def json_rows(path: str, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("line 1", object) of a file of JSON lines, or ("entry 1", object) of one JSON list.

    Args:
        path: the file.
        what: its name in messages.

    Raises:
        ConfigError: if it is not UTF-8, a line is not an object, or a text is not valid Unicode.
    """
    text = decoded(path, what)
    for where, row in _listed(text, what) if text.lstrip().startswith("[") else _lines(text, what):
        if not isinstance(row, dict):
            raise ConfigError(
                f'{what}, {where}: {_short(row)} is not an object such as {{"text": "..."}}'
            )
        yield where, row


def _listed(text: str, what: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise ConfigError(f"{what}, line {line}: not a list in JSON ({error})") from None
    suspect = _SURROGATE.search(text) is not None
    for number, row in enumerate(rows, 1):
        if suspect:
            _check_unicode(row, f"{what}, entry {number}")
        yield f"entry {number}", row


def _lines(text: str, what: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(), which also splits at characters that JSON strings may contain (U+2028).
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            hint = ", but one JSON value over several lines" if _is_json(text) else ""
            raise ConfigError(
                f"{what}, line {number}: not JSON ({error}){hint}; the file must contain one object"
                " per line, or a list of objects"
            ) from None
        if _SURROGATE.search(line):
            _check_unicode(row, f"{what}, line {number}")
        yield f"line {number}", row


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_unicode(row: Any, where: str) -> None:
    """Raise ConfigError if a text contains half of a surrogate pair, which is not a character."""
    if fault := unicode_fault(json.dumps(row, ensure_ascii=False)):
        raise ConfigError(f"{where}: {fault}")


def _one_kind(values: list[Any]) -> list[Any]:
    """Write numbers and booleans as texts if a column also contains texts."""
    kinds = {type(value) for value in values} - {type(None)}
    if str in kinds and kinds <= {str, int, float, bool} and len(kinds) > 1:
        return [x if x is None or isinstance(x, str) else json.dumps(x) for x in values]
    return values


def _csv_files(paths: Sequence[str], wanted: tuple[str, ...]) -> Records:
    columns: dict[str, list[Any]] = {}
    notes: list[str] = []
    first = ""
    for path in paths:
        names, rows, found = _csv_file(path, wanted)
        notes += found
        if first and names != list(columns):
            raise ConfigError(
                f"{path!r} has the columns {', '.join(names)}, but {first!r} has"
                f" {', '.join(columns)}: files that are read together need the same columns"
            )
        first = first or path
        for i, name in enumerate(names):
            columns.setdefault(name, []).extend(row[i] for row in rows)
    return Records(columns, notes)


def _csv_file(path: str, wanted: tuple[str, ...]) -> tuple[list[str], list[list[str]], list[str]]:
    """Return the names of a file's columns, its rows, and notes."""
    text = decoded(path, repr(path))
    notes = []
    start = text.lstrip("\r\n").partition("\n")[0]
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    others = [x for x in "\t;" if x in start and "," not in start and delimiter == ","]
    rows = None
    for other in others:  # if it divides all lines alike
        try:
            rows = _csv_rows(text, path, other, csv.QUOTE_MINIMAL)
        except ConfigError:
            continue
        notes.append(f"{path}: its fields are separated by {'tabs' if other != ';' else other}")
        break
    try:
        rows = rows or _csv_rows(text, path, delimiter, csv.QUOTE_MINIMAL)
    except ConfigError:
        if delimiter == ",":
            raise
        rows = _csv_rows(text, path, delimiter, csv.QUOTE_NONE)
        notes.append(f"{path}: quotation marks are read as part of the texts")
    head = [name.strip() for name in rows[0]]
    if _is_header(head, rows[1:], wanted):
        names = _distinct([name or f"column {i}" for i, name in enumerate(head, 1)])
        notes.append(f"{path}: its first line is read as the header: {', '.join(names)}")
        return names, rows[1:], notes
    names = [f"column {i}" for i in range(1, len(head) + 1)]
    notes.append(
        f"{path}: has no header, so its first line is read as data and the columns are named"
        f" {', '.join(names)}; a first line such as text,label would name them"
    )
    return names, rows, notes


def _csv_rows(text: str, path: str, delimiter: str, quoting: Any) -> list[list[str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # texts may be longer than 128 KB
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
    rows: list[list[str]] = []
    line = 1
    try:
        for row in reader:
            if row and (not rows or len(row) == len(rows[0])):
                rows.append(row)
            elif row:
                count = f"{len(row)} field{'s' * (len(row) > 1)}"
                raise ConfigError(
                    f"{path!r}, line {line}: {count}, but {len(rows[0])} in the first"
                    f" line: put quotation marks around texts that contain {delimiter!r}"
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path!r}, line {line}: not valid CSV ({error})") from None
    if not rows:
        raise ConfigError(f"{path!r} is empty")
    return rows


def _is_header(cells: list[str], rows: list[list[str]], wanted: tuple[str, ...]) -> bool:
    """Return True if the first line of a CSV file names the columns of the other lines."""
    if set(cells) & set(wanted):
        return True
    if len(cells) > 1 and cells == [str(i) for i in range(len(cells))]:  # as pandas writes arrays
        return True
    for i, cell in enumerate(cells):  # a name above numbers
        below = [row[i] for row in rows if row[i].strip()]
        if cell and below and not is_number(cell) and all(map(is_number, below)):
            return True
    return any(cells) and not any(is_number(x) or _is_text(x) for x in cells if x)


def is_number(cell: str) -> bool:
    """Return True for the text of a number, also "nan" and "inf"."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_text(cell: str) -> bool:
    long = len(cell) > _HEADER_LENGTH or len(cell.split()) > _HEADER_WORDS
    return long or cell.endswith((".", "!", "?"))


def _distinct(names: list[str]) -> list[str]:
    """Add a number to repeated names: x, x.1."""
    out: list[str] = []
    for name in names:
        number = 1
        unique = name
        while unique in out:
            unique, number = f"{name}.{number}", number + 1
        out.append(unique)
    return out
