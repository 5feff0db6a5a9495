"""Files of a folder: which are data, which split each belongs to, and which are not used."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from flaxae.errors import ConfigError
from flaxae.pointers import pointer

MANIFEST = "manifest.json"
# Files that `datasets`, the Hub and our own shards have beside the data.
METADATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", MANIFEST)
TEXTS = (".txt", ".parquet")  # shards of `data.path`
TABLES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
# Words in the names of files and folders, as in data sets of the Hub.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
HELD_OUT = {"train": "", "validation": "dev", "test": "test_file"}  # names in `Corpus.held_out`
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"PK\x03\x04", "zip", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "7z x"),
)
_BZIP2 = re.compile(rb"BZh[1-9]\x31\x41\x59\x26\x53\x59")
_ABOUT = re.compile(r"((readme|licen[cs]e|copying)([-_. ].*)?|requirements)\.txt", re.IGNORECASE)
_SEPARATORS = re.compile(r"[-._\s\d]+")
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")
_NAMED = 8  # file names in a message
_WALKED = 10_000  # files after which subfolders that are not used are not looked through


class Listing(NamedTuple):
    """Files of a folder, as sorted paths relative to it.

    Attributes:
        used: files with one of the wanted endings: those of the folder itself, or, if it has none,
            those of its subfolders.
        unused: the other files that are not hidden.
    """

    used: list[str]
    unused: list[str]


def list_files(folder: str, endings: Iterable[str], ignored: Iterable[str] = ()) -> Listing:
    """List the files of a folder; hidden files, and files in hidden folders, are left out.

    Args:
        folder: path of the folder.
        endings: endings of data files, in lower case.
        ignored: names of files that are neither data nor worth a note.

    Raises:
        ConfigError: if the folder cannot be read, or a data file is a broken link.
    """
    endings, ignored = tuple(endings), set(ignored)
    try:
        os.listdir(folder)
    except OSError as error:
        raise ConfigError(f"{folder!r} cannot be read: {error.strerror or error}") from None
    found = (name for name in _walk(folder) if os.path.basename(name) not in ignored)
    names, data = [], []
    for name in found:
        names.append(name)
        path = os.path.join(folder, name)
        file = os.path.isfile(path) or not os.path.exists(path)
        if name.lower().endswith(endings) and file and not is_about_data(name):
            data.append(name)
        # Files of the folder itself come first; if there are any, only these are used.
        if os.sep in name and os.sep not in (data or [name])[0] and len(names) > _WALKED:
            break
    used = sorted([name for name in data if os.sep not in name] or data)
    for path in (os.path.join(folder, name) for name in used):
        if not os.path.exists(path):
            raise ConfigError(
                f"{path!r} is a link to {os.readlink(path)!r}, which does not exist: restore that"
                " file or remove the link"
            )
    return Listing(used, sorted(set(names) - set(used)))


def is_about_data(path: str) -> bool:
    """Return True for a text file such as README.txt or LICENSE.txt, which is not data."""
    return _ABOUT.fullmatch(os.path.basename(path)) is not None


def _walk(folder: str) -> Iterator[str]:
    """Yield the relative paths of files, and of folders that are links or cannot be read."""
    closed: list[str] = []
    for here, folders, files in os.walk(folder, onerror=lambda e: closed.append(str(e.filename))):
        links = [f for f in folders if os.path.islink(os.path.join(here, f))]  # are not entered
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in (*files, *links):
            if not name.startswith("."):
                yield os.path.normpath(os.path.join(os.path.relpath(here, folder), name))
    yield from (os.path.relpath(path, folder) for path in closed)


def split_of(path: str) -> str:
    """Return the split that a relative path names, "" if none; the file's name comes first.

    >>> split_of("train-00000-of-00002.parquet"), split_of("dev/a.txt"), split_of("latest.txt")
    ('train', 'validation', '')
    """
    for part in reversed(path.lower().split(os.sep)):
        words = set(_SEPARATORS.split(part))
        for split, names in SPLITS.items():
            if words & set(names):
                return split
    return ""


def by_split(folder: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Sort files into splits by their names; files that name no split are training data.

    Args:
        folder: name of the folder for messages.
        names: relative paths.

    Returns:
        "train", and "validation" and "test" if there are such files.

    Raises:
        ConfigError: if all files are held out.
    """
    out: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in names:
        out[split_of(name) or "train"].append(name)
    if not out["train"] and any(out.values()):
        held_out = named([name for found in out.values() for name in found])
        raise ConfigError(
            f"{folder!r} has no training data: by their names, {held_out} are held-out data"
            " (validation or test); add a training file, or rename them"
        )
    return {split: found for split, found in out.items() if found}


def split_notes(folder: str, splits: dict[str, list[str]]) -> list[str]:
    """Return a note that says which files are held out, if any are."""
    if len(splits) < 2:
        return []
    parts = (f"{split}: {named(names)}" for split, names in splits.items())
    return [f"{folder}: splits by file names: {'; '.join(parts)}"]


def unused_notes(folder: str, listing: Listing) -> list[str]:
    """Return notes on files that are not read and on missing shards.

    Args:
        folder: name of the folder.
        listing: its files.
    """
    notes = [f"{folder}: not used: {unused_names(folder, listing)}"] if listing.unused else []
    present: dict[tuple[str, int, str], set[int]] = {}
    for name in listing.used:
        if match := _SHARD.fullmatch(name):
            present.setdefault((match[1], int(match[3]), match[4]), set()).add(int(match[2]))
    for (stem, count, ending), numbers in present.items():
        lacking = sorted(set(range(count)) - numbers)
        if lacking:
            names = [f"{stem}-{i:05d}-of-{count:05d}{ending}" for i in lacking]
            notes.append(f"{folder}: {len(names)} of {count} shards are missing: {named(names)}")
    return notes


def unused_names(folder: str, listing: Listing) -> str:
    """Return the names of files that are not used, with the reasons."""
    top = bool(listing.used) and os.sep not in listing.used[0]
    return named(listing.unused, [_why_unused(folder, x, top) for x in listing.unused[:_NAMED]])


def _why_unused(folder: str, name: str, top: bool) -> str:
    path = os.path.join(folder, name)
    if os.sep in name and top:
        return " (in a subfolder)"
    if not os.access(path, os.R_OK):
        return " (cannot be read)"
    if os.path.isdir(path):
        return " (a link to a folder)"
    if packed := compression(path):
        return f" (compressed: unpack it with {packed[1]})"
    if name.lower().endswith(TABLES):
        return " (a table)"
    return " (about the data)" if is_about_data(name) else ""


def named(names: Sequence[str], reasons: Sequence[str] = ()) -> str:
    """Return the first names, with reasons if they are given, and the number of the others."""
    more = len(names) - _NAMED
    shown = [x + (reasons[i] if reasons else "") for i, x in enumerate(names[:_NAMED])]
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def compression(path: str) -> tuple[str, str] | None:
    """Return the format of a compressed file and the command that unpacks it; None for others."""
    start = _start(path)
    if _BZIP2.match(start):
        return "bzip2", "bunzip2"
    found = ((kind, tool) for magic, kind, tool in _COMPRESSED if start.startswith(magic))
    return next(found, None)


def check_content(path: str, what: str) -> None:
    """Raise ConfigError if a file is compressed, or is only the pointer to a file of Git LFS.

    Args:
        path: the file.
        what: its name in the message, such as "data.path='x.txt'".
    """
    if packed := compression(path):
        raise ConfigError(f"{what} is compressed ({packed[0]}): unpack it first with {packed[1]}")
    if text := pointer(path):
        raise ConfigError(f"{what} is {text}")


def _start(path: str) -> bytes:
    """Return the first bytes of a regular file; b"" for others, such as pipes."""
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError:
        return b""
