"""Text files, files with lines of label<tab>text, and directories of shards."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator

from flaxae.data.text import Corpus, make_corpus
from flaxae.errors import ConfigError

MANIFEST = "manifest.json"
SHARDS = (".txt", ".parquet")


@dataclasses.dataclass
class Part:
    """Texts of one file or of one split of a data set.

    Attributes:
        name: name of the file or split.
        texts: one text per example.
        labels: the label of each text; None if there are no labels.
        split: "dev" or "test_file" if the whole part is held out; "": no given split.
    """

    name: str
    texts: list[str]
    labels: list[str] | None = None
    split: str = ""


def corpus_of(name: str, parts: Iterable[Part], max_lines: int = 0) -> Corpus:
    """Make a corpus of the distinct texts of parts; the first label of a text is used.

    Args:
        name: name of the corpus.
        parts: its texts.
        max_lines: number of distinct texts after which reading stops; 0: all.

    Raises:
        ConfigError: if there are no texts.
    """
    labels: dict[str, str] = {}
    held_out: dict[int, str] = {}
    counts = {"texts": 0, "changed": 0}

    def texts() -> Iterator[tuple[str, list[str]]]:
        for number, part in enumerate(parts):
            if part.split:
                held_out[number] = part.split
            for text, label in zip(part.texts, part.labels or (), strict=part.labels is not None):
                counts["changed"] += labels.setdefault(text, label) != label
            counts["texts"] += len(part.texts)
            yield part.name, part.texts

    corpus = make_corpus(name, texts(), max_lines)
    if not corpus.examples:
        raise ConfigError(f"{name!r} contains no text")
    corpus.labels, corpus.held_out = labels, held_out
    repeated = counts["texts"] - len(corpus.examples)
    if repeated and not max_lines:
        corpus.notes.append(
            f"{repeated} of {counts['texts']} lines repeat an earlier line and are used once"
        )
    if counts["changed"]:
        corpus.notes.append(
            f"{counts['changed']} repeated lines have another label; the first is used"
        )
    return corpus


def read_path(path: str, labels: bool = False) -> Iterator[Part]:
    """Read `data.path`: one part for a file, one per shard for a directory.

    Args:
        path: a text file, or a directory of .txt or .parquet shards.
        labels: whether lines are label<tab>text, and parquet files have a column "label".

    Yields:
        The parts.

    Raises:
        ConfigError: if a file cannot be read or is empty, or a line has no label.
    """
    if not os.path.isdir(path):
        yield _part(path, path, labels)
        return
    names = sorted(x for x in os.listdir(path) if x.endswith(SHARDS) and not x.startswith("."))
    if not names:
        raise ConfigError(
            f"data.path={path!r} is a directory without shards ({', '.join(SHARDS)}): give a text"
            " file with one example per line (or, for the directory of a data set,"
            f" --config.data.name=hf:{path})"
        )
    _check_manifest(path, names)
    for name in names:
        shard = os.path.join(path, name)
        if os.path.getsize(shard):  # a shard without articles is empty
            yield _part(shard, name, labels)


def _check_manifest(folder: str, names: list[str]) -> None:
    """Check that a directory contains all shards of its manifest, if it has one."""
    path = os.path.join(folder, MANIFEST)
    if not os.path.isfile(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            listed = list(json.load(file)["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path!r} is not a readable manifest: {error}") from None
    if missing := sorted(set(listed) - set(names)):
        raise ConfigError(
            f"data.path={folder!r} lacks {len(missing)} of {len(listed)} shards, {missing[0]}"
            " first: run the command that builds them again (python -m flaxae.data.wikipedia"
            " continues where it stopped)"
        )


def _part(path: str, name: str, labels: bool) -> Part:
    if path.endswith(".parquet"):
        return _parquet(path, name, labels)
    if not labels:
        return Part(name, read_lines(path))
    texts, found = [], []
    for number, line in _numbered(path):
        label, tab, text = line.partition("\t")
        if not tab or not label.strip() or not text.strip():
            raise ConfigError(
                f"{path!r}, line {number}: {line[:60]!r} is not label<tab>text, which"
                " data.labels=True requires"
            )
        texts.append(text)
        found.append(label.strip())
    return Part(name, texts, found)


def _parquet(path: str, name: str, labels: bool) -> Part:
    import pyarrow.parquet

    columns = ["text", "label"] if labels else ["text"]
    try:
        table = pyarrow.parquet.read_table(path, columns=columns)
        rows = [table.column(c).to_pylist() for c in columns]
    except Exception as error:  # errors of pyarrow and of the file system
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path!r} has no readable columns {columns}: {reason}") from None
    good = [i for i, text in enumerate(rows[0]) if isinstance(text, str) and text.strip()]
    found = [str(rows[1][i]) for i in good] if labels else None
    return Part(name, [rows[0][i] for i in good], found)


def read_lines(path: str) -> list[str]:
    """Read the non-blank lines of a UTF-8 text file, without their ends of line.

    Args:
        path: the file.

    Raises:
        ConfigError: if the file is missing, a directory, empty, binary or not UTF-8.
    """
    return [line for _, line in _numbered(path)]


def _numbered(path: str) -> list[tuple[int, str]]:
    """Return (number from 1, line) of the lines that are not blank."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise ConfigError(f"data.path={path!r} cannot be read: {error.strerror or error}") from None
    if b"\0" in raw:
        raise ConfigError(
            f"data.path={path!r} is a binary file (it contains a zero byte at {raw.index(0)}):"
            " give UTF-8 text with one example per line"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"data.path={path!r} is not UTF-8 (line {line}, byte {error.start}): convert it first,"
            " for example with iconv -t utf-8"
        ) from None
    # Not str.splitlines: it also cuts at form feeds and Unicode separators inside a line.
    lines = ((i, x.removesuffix("\r")) for i, x in enumerate(text.split("\n"), 1))
    out = [(i, line) for i, line in lines if line.strip()]
    if not out:
        raise ConfigError(f"data.path={path!r} is empty: it needs one example per line")
    return out
