"""A record: a JSONL file with one row of numbers per measured run, from which tables are made.

Runs are named by the hash of their config, and a run with a row is not trained again. The file is
enough to continue on another machine.
"""

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flaxae.config import Config, config_hash
from flaxae.errors import ConfigError
from flaxae.storage.workdir import versions

Row = dict[str, Any]  # run, variant, seed, numbers, commit, and what the measure adds


def complete(
    path: Path,
    runs: Iterable[tuple[str, Config]],
    measure: Callable[[Config, str], Row | None],
    *,
    columns: Iterable[str] = (),
    settings: dict[str, Any] | None = None,
    after: Callable[[list[Row]], Any] = lambda rows: None,
) -> bool:
    """Measure the runs that a record lacks, and add their rows to it.

    Args:
        path: the record's file; it need not exist.
        runs: variant and config of each run.
        measure: trains and measures a run: (its config, its hash) -> its "numbers", and other
            entries of its row. None: a signal interrupted it.
        columns: numbers that each row of the file must have.
        settings: what the numbers depend on besides the config; it is stored as "settings", and a
            run whose row has others is measured again.
        after: called after each run with the rows of the runs so far.

    Returns:
        False if a signal interrupted a run; the same call then continues.
    """
    commit, done, rows = running_commit(), read_record(path, columns), []
    for variant, config in runs:
        key = config_hash(config)
        if key not in done or done[key].get("settings") != settings:
            found = measure(config, key)
            if found is None:
                return False
            row = {"run": key, "variant": variant, "seed": config.seed, "commit": commit}
            done[key] = row | found | ({} if settings is None else {"settings": settings})
            add_to_record(path, done[key])
        rows.append(done[key])
        after(rows)
    return True


def read_record(path: Path, columns: Iterable[str] = ()) -> dict[str, Row]:
    """Return the rows of a record by config hash; an incomplete last line is skipped.

    Args:
        path: the file; there are no rows if it does not exist.
        columns: numbers that each row must have.

    Raises:
        ConfigError: if the file is not such a record.
    """
    lines = path.read_text().split("\n") if path.exists() else [""]
    rows, columns = {}, tuple(columns)
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            _ = row["variant"], row["seed"], [row["numbers"][column] for column in columns]
            rows[row["run"]] = row
        except (KeyError, TypeError, ValueError):
            raise ConfigError(
                f"{path}, line {number}, is not a row of this record of runs; "
                "name another file with --record, or delete it to train all runs again"
            ) from None
    return rows


def add_to_record(path: Path, row: Row) -> None:
    """Append a row; an incomplete last line is removed."""
    text = path.read_text() if path.exists() else ""
    path.write_text(text[: text.rfind("\n") + 1] + json.dumps(row) + "\n")


@functools.cache
def running_commit() -> str:
    """Return the commit at this process's start; a checkout may change during hours of runs."""
    return versions()["commit"]
