"""Text files, files with lines of label<tab>text, and directories of shards."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator

from flaxae.data import folders
from flaxae.data.folders import MANIFEST
from flaxae.data.labels import label_text
from flaxae.data.lines import numbered_lines
from flaxae.data.text import Corpus, make_corpus, printable
from flaxae.errors import ConfigError, causes

OPTION = "data.path"  # tables can be read by data.name instead; other options have no such way


@dataclasses.dataclass
class Part:
    """Texts of one file or of one split of a data set.

    Attributes:
        name: name of the file or split.
        texts: one text per example.
        labels: the label of each text, "" where it is missing; None if there are no labels.
        split: "dev" or "test_file" if the whole part is held out; "": no given split.
        blank: number of records left out because they have no text.
        notes: remarks on what was read and what was not.
    """

    name: str
    texts: list[str]
    labels: list[str] | None = None
    split: str = ""
    blank: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)


def corpus_of(name: str, parts: Iterable[Part], max_lines: int = 0) -> Corpus:
    """Make a corpus of the distinct texts of parts; the first label of a text is used.

    Args:
        name: name of the corpus.
        parts: its texts.
        max_lines: number of distinct texts after which reading stops; 0: all.

    Raises:
        ConfigError: if there are no texts, or they have labels and all of these are missing.
    """
    labels: dict[str, str] = {}
    held_out: dict[int, str] = {}
    counts = {"texts": 0, "changed": 0, "blank": 0}
    notes: list[str] = []
    labelled = False

    def texts() -> Iterator[tuple[str, list[str]]]:
        nonlocal labelled
        for number, part in enumerate(parts):
            if part.split:
                held_out[number] = part.split
            labelled |= part.labels is not None
            for text, label in zip(part.texts, part.labels or (), strict=part.labels is not None):
                if label:
                    counts["changed"] += labels.setdefault(text, label) != label
            counts["texts"] += len(part.texts)
            counts["blank"] += part.blank
            notes.extend(map(printable, part.notes))
            yield part.name, part.texts

    corpus = make_corpus(name, texts(), max_lines)
    if not corpus.examples:
        raise ConfigError("; ".join([f"{name!r} contains no text", *notes]))
    corpus.labels, corpus.held_out = labels, held_out
    corpus.notes += notes
    if counts["blank"]:
        corpus.notes.append(f"{counts['blank']} records without text are left out")
    repeated = counts["texts"] - len(corpus.examples)
    if repeated and not max_lines:
        corpus.notes.append(
            f"{repeated} of {counts['texts']} lines repeat an earlier line and are used once"
        )
    if max_lines and len(corpus.examples) >= max_lines:
        corpus.notes.append(
            f"data.max_lines={max_lines}: later texts, files and splits are not read"
        )
    if counts["changed"]:
        corpus.notes.append(
            f"{counts['changed']} repeated lines have another label; the first is used"
        )
    if labelled:
        _count_missing(corpus)
    return corpus


def _count_missing(corpus: Corpus) -> None:
    """Note how many texts have no label; raise ConfigError if none has one."""
    if not corpus.labels:
        raise ConfigError(
            f"data.labels=True: all labels of {corpus.name!r} are missing; name another file, or"
            " set data.labels=False"
        )
    missing = len(corpus.examples) - sum(text in corpus.labels for text in corpus.examples)
    if missing:
        corpus.notes.append(
            f"{missing} of {len(corpus.examples)} texts have no label: they are trained on, and"
            " left out where labels are used"
        )


def read_path(path: str, labels: bool = False, option: str = OPTION) -> Iterator[Part]:
    """Read `data.path`: one part for a file, one per shard for a directory.

    Args:
        path: a text file, or a directory of .txt or .parquet shards, whose names may say their
            split (train, validation, test).
        labels: whether lines are label<tab>text, and parquet files have a column "label".
        option: the option that named the path, for messages.

    Yields:
        The parts.

    Raises:
        ConfigError: if a file cannot be read or is empty, or a line has no label.
    """
    if not os.path.isdir(path):
        _check_no_table(path, option)
        yield _part(path, path, labels, option)
        return
    listing = folders.list_files(path, folders.TEXTS, ignored=folders.METADATA)
    if not listing.used:
        found = f" (it contains {folders.unused_names(path, listing)})" if listing.unused else ""
        raise ConfigError(
            f"{option}={path!r} is a directory without shards ({', '.join(folders.TEXTS)})"
            f"{found}: give a text file with one example per line"
            + (f" (or, for tables, --config.data.name=hf:{path})" if option == OPTION else "")
        )
    _check_manifest(path, listing.used, option)
    empty = [x for x in listing.used if _is_blank(os.path.join(path, x))]  # shards without articles
    splits = folders.by_split(path, [x for x in listing.used if x not in set(empty)])
    if not splits:
        raise ConfigError(f"{option}={path!r} contains no text: {folders.named(empty)} are empty")
    notes = folders.unused_notes(path, listing) + folders.split_notes(path, splits)
    unread = any(x.lower().endswith(folders.TABLES) and os.sep not in x for x in listing.unused)
    if unread and option == OPTION:
        notes.append(f"{path}: tables are read with data.name=hf:FILE, without {option}")
    notes += [f"{path}: empty files: {folders.named(empty)}"] if empty else []
    for split, names in splits.items():
        for name in names:
            shard = os.path.join(path, name)
            part = _part(shard, name, labels, option)
            part.notes, notes = notes + part.notes, []
            yield dataclasses.replace(part, split=folders.HELD_OUT[split])


def _is_blank(path: str) -> bool:
    """Return True for a file that is empty, or small and of white space only."""
    if os.path.getsize(path) > 4096:
        return False
    try:
        with open(path, "rb") as file:
            return not file.read().strip()
    except OSError:
        return False  # the error is reported where the file is read


def _check_no_table(path: str, option: str) -> None:
    """Raise ConfigError for a table, whose raw lines nobody wants to train on."""
    endings = tuple(x for x in folders.TABLES if x not in (".tsv", *folders.TEXTS))
    if path.lower().endswith(endings):
        way = f"read it with --config.data.name=hf:{path} and without {option}"
        raise ConfigError(
            f"{option}={path!r} is a table, not a text with one example per line: "
            + (way if option == OPTION else "write its texts to a .txt file")
        )


def _check_manifest(folder: str, names: list[str], option: str) -> None:
    """Check that a directory contains all shards of its manifest, if it has one."""
    path = os.path.join(folder, MANIFEST)
    if not os.path.isfile(path):
        return
    folders.check_content(path, repr(path))
    try:
        with open(path, encoding="utf-8") as file:
            listed = list(json.load(file)["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path!r} is not a readable manifest: {error}") from None
    if missing := sorted(set(listed) - set(names)):
        raise ConfigError(
            f"{option}={folder!r} lacks {len(missing)} of {len(listed)} shards, {missing[0]}"
            " first: run the command that builds them again (python -m flaxae.data.wikipedia"
            " continues where it stopped)"
        )


def _part(path: str, name: str, labels: bool, option: str) -> Part:
    if path.lower().endswith(".parquet"):
        return _parquet(path, name, labels, option)
    what = f"{option}={path!r}"
    lines = numbered_lines(path, what)
    if not labels:
        notes = _kind_notes(name, lines, option == OPTION)
        return Part(name, [line for _, line in lines], notes=notes)
    texts, found, notes = [], [], []
    for number, line in lines:
        label, tab, text = line.partition("\t")
        if not notes and number == lines[0][0] and [label, text] == ["label", "text"]:
            notes.append(f"{name}: its first line is read as the header: label, text")
            continue
        if not tab or not label.strip() or not text.strip():
            raise ConfigError(
                f"{what}, line {number}: {line[:60]!r} is not label<tab>text, which"
                " data.labels=True requires"
            )
        texts.append(text)
        found.append(label.strip())
    return Part(name, texts, found, notes=notes)


def _kind_notes(name: str, lines: list[tuple[int, str]], tables: bool) -> list[str]:
    """Return a note if the lines of a text file look like rows of a table.

    Args:
        name: name of the file.
        lines: its numbered lines.
        tables: whether the user can read tables instead, by `data.name`.
    """
    if all("\t" in line for _, line in lines):
        way = ", and a table data.name=hf:FILE.tsv" if tables else ""
        return [
            f"{name}: every line contains a tab, which is read as part of the text; lines of"
            f" label<tab>text need data.labels=True{way}"
        ]
    first = [line.strip() for _, line in lines[:100]]
    if all(x.startswith("{") and x.endswith("}") for x in first):
        way = "as a table, name the file .jsonl and read it with data.name=hf:FILE.jsonl"
        way = f"; {way}" if tables else ""
        return [f"{name}: its lines look like JSON and are read as texts{way}"]
    return []


def _parquet(path: str, name: str, labels: bool, option: str) -> Part:
    import pyarrow.parquet

    what = f"{option}={path!r}"
    folders.check_content(path, what)
    columns = ["text", "label"] if labels else ["text"]
    try:
        found = pyarrow.parquet.read_schema(path)
    except Exception as error:  # errors of pyarrow and of the file system
        raise ConfigError(
            f"{what} is not a whole parquet file ({causes(error)}): make or download it again"
        ) from None
    if missing := [c for c in columns if c not in found.names]:
        raise ConfigError(
            f"{what} has no readable columns {missing}, but {', '.join(found.names)}: rename one"
            + (f", or read it with data.name=hf:{path}:COLUMN" if option == OPTION else "")
        )
    kind = found.field("text").type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if str(kind) not in ("string", "large_string", "string_view", "null"):
        raise ConfigError(f"{what}: its column 'text' contains {kind}, not texts")
    try:
        table = pyarrow.parquet.read_table(path, columns=columns)
        rows = [table.column(c).to_pylist() for c in columns]
    except Exception as error:
        raise ConfigError(
            f"{what} is not a whole parquet file ({causes(error)}): make or download it again"
        ) from None
    good = [i for i, text in enumerate(rows[0]) if text and text.strip()]
    kept = [label_text(rows[1][i]) for i in good] if labels else None
    return Part(name, [rows[0][i] for i in good], kept, blank=len(rows[0]) - len(good))
