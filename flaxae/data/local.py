"""Local files as `datasets` tables: files of one kind, and the output of save_to_disk."""

import glob
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from flaxae.data.folders import (
    METADATA,
    by_split,
    check_content,
    list_files,
    named,
    split_notes,
    unused_names,
    unused_notes,
)
from flaxae.data.records import read_records
from flaxae.errors import ConfigError, causes
from flaxae.pointers import require_content

FORMATS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}
_SAVED = {"dataset_dict.json", "state.json"}


class Local(NamedTuple):
    """Tables of local files.

    Attributes:
        splits: a `datasets` table for each split; data without splits have "train" only.
        notes: remarks on how the files were read and on those that are not used.
    """

    splits: dict[str, Any]
    notes: list[str]


def read_local(target: str, wanted: Sequence[str] = ()) -> Local:
    """Read the output of save_to_disk, a file, or the files of one kind of a directory.

    Args:
        target: a directory or a file; a directory's files belong to the splits in their names.
        wanted: names of columns that are asked for, by which the header of a CSV is recognised.

    Raises:
        ConfigError: if there are no readable files, or files of several kinds.
    """
    if not os.path.isdir(target):
        table, notes = load_files([target], wanted)
        return Local({"train": table}, notes)
    names = os.listdir(target) if os.access(target, os.R_OK) else []
    if _SAVED & set(names) or ("dataset_info.json" in names and _has_arrow(names)):
        loaded = _saved(target)
        return Local(loaded if isinstance(loaded, dict) else {"train": loaded}, [])
    listing = list_files(target, FORMATS, ignored=METADATA)
    if not listing.used:
        found = f" (it contains {unused_names(target, listing)})" if listing.unused else ""
        raise ConfigError(f"{target!r} has no files of these kinds: {', '.join(FORMATS)}{found}")
    _kind(listing.used, repr(target))
    empty = [x for x in listing.used if not os.path.getsize(os.path.join(target, x))]
    by_name = by_split(target, [x for x in listing.used if x not in empty])
    if not by_name:
        raise ConfigError(f"{target!r} contains no data: {named(empty)} are empty")
    notes = unused_notes(target, listing) + split_notes(target, by_name)
    notes += [f"{target}: empty files: {named(empty)}"] if empty else []
    splits = {}
    for split, files in by_name.items():
        splits[split], more = load_files([os.path.join(target, x) for x in files], wanted)
        notes += more
    return Local(splits, notes)


def _has_arrow(names: Sequence[str]) -> bool:
    return any(name.endswith(".arrow") for name in names)


def _saved(folder: str) -> Any:
    """Load the output of save_to_disk, of which each part may be missing or cut."""
    import datasets

    for here, _, files in os.walk(folder):
        for name in files:
            require_content(os.path.join(here, name))
    try:
        return datasets.load_from_disk(folder)
    except Exception as error:  # missing keys and files, invalid JSON, errors of arrow
        raise ConfigError(
            f"{folder!r} is not a whole output of save_to_disk ({causes(error)}): save or copy it"
            " again"
        ) from None


def is_data_file(path: str) -> bool:
    """Return True if the ending of a name is that of a table or text file."""
    return os.path.splitext(path)[1].lower() in FORMATS


def _kind(paths: Sequence[str], what: str) -> str:
    """Return the common kind of files; raise ConfigError if there are none or several."""
    by_kind: dict[str, list[str]] = {}
    for path in paths:
        if kind := FORMATS.get(os.path.splitext(path)[1].lower()):
            by_kind.setdefault(kind, []).append(os.path.basename(path))
    if len(by_kind) != 1:
        found = "; ".join(f"{kind}: {named(names)}" for kind, names in by_kind.items())
        raise ConfigError(
            f"{what} must contain files of one kind ({', '.join(FORMATS)})"
            + (f", but has {found}: name one file" if found else "")
        )
    return next(iter(by_kind))


def load_files(paths: Sequence[str], wanted: Sequence[str] = ()) -> tuple[Any, list[str]]:
    """Load files of one kind as one table, with notes on how they were read.

    Args:
        paths: the files.
        wanted: see `read_local`.

    Raises:
        ConfigError: if the files are of several kinds or unknown ones, or cannot be read.
    """
    import datasets

    what = repr(paths[0]) if len(paths) == 1 else f"{paths[0]!r} (or another file beside it)"
    for path in paths:
        check_content(path, repr(path))
    kind = _kind(paths, what)
    try:
        if kind in ("csv", "json", "text"):
            columns, notes = read_records(kind, paths, wanted)
            return datasets.Dataset.from_dict(columns), notes
        files = [glob.escape(path) for path in paths]  # `datasets` reads names as patterns
        return datasets.load_dataset(kind, data_files={"train": files})["train"], []
    except ConfigError:
        raise
    except Exception as error:  # each reader raises other exceptions
        raise ConfigError(f"{what} cannot be loaded: {causes(error)}") from None
