"""Tables of `datasets` and `tfds`, and the texts and labels in them."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxae.data import foreign_ids
from flaxae.data.config import TextDataConfig
from flaxae.data.files import Part
from flaxae.errors import ConfigError

FORMATS = {
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".txt": "text",
    ".arrow": "arrow",
}
HF_FORM = "hf:<name or local path>[:config][:column]"
_STRINGS = ("string", "large_string")


def hugging_face(data: TextDataConfig) -> Part:
    """Read the texts of `data.name` = hf:...: a column of the train split or of the only table.

    Raises:
        ConfigError: if the table cannot be loaded, or has no such column.
    """
    name = data.name
    target, *rest = name.removeprefix("hf:").split(":")
    local = os.path.exists(target)
    if not target or len(rest) > (1 if local else 2):
        raise ConfigError(f"data.name={name!r} is not {HF_FORM}")
    config, column = (("", *rest) if local else tuple(rest)) + ("",) * (2 - local - len(rest))
    hint = "" if local else "; without a network, give a local path (hf:/path) or data.path"
    loaded = load_local(target) if local else load_hub(target, config, f"data.name={name!r}", hint)
    if isinstance(loaded, dict):
        loaded = loaded["train"] if "train" in loaded else next(iter(loaded.values()))
    return column_part(loaded, (column,) if column else (), name, data)


def load_hub(target: str, config: str, what: str, hint: str) -> Any:
    """Load a data set of the Hub; raise ConfigError if that fails.

    Args:
        target: name on the Hub.
        config: configuration of the data set; "": its default.
        what: beginning of the error message.
        hint: end of the error message.
    """
    import datasets  # slow to import, and only needed here

    try:
        return datasets.load_dataset(target, config or None)
    except Exception as error:  # exceptions of the Hub client and of the network
        raise ConfigError(f"{what} cannot be loaded: {reason(error)}{hint}") from None


def load_local(target: str | Sequence[str]) -> Any:
    """Load a table from the output of save_to_disk, or from files of one kind.

    Args:
        target: a directory, a file, or several files.

    Raises:
        ConfigError: if there are no readable files, or files of several kinds.
    """
    import datasets

    paths, what = list(target), f"{list(target)[:1]}"
    if isinstance(target, str):
        paths, what = [target], repr(target)
        if os.path.isdir(target):
            names = sorted(os.listdir(target))
            if {"dataset_dict.json", "state.json"} & set(names):
                return datasets.load_from_disk(target)
            paths = [os.path.join(target, n) for n in names]
    kinds = {FORMATS[e] for p in paths if (e := os.path.splitext(p)[1]) in FORMATS}
    if len(kinds) != 1:
        raise ConfigError(f"{what} must contain files of one kind: {', '.join(FORMATS)}")
    kind = kinds.pop()
    files = [p for p in paths if FORMATS.get(os.path.splitext(p)[1]) == kind]
    try:
        return datasets.load_dataset(kind, data_files={"train": files})["train"]
    except Exception as error:  # each reader raises other exceptions
        raise ConfigError(f"{what} cannot be loaded: {reason(error)}") from None


def column_part(
    table: Any, columns: Sequence[str], name: str, data: TextDataConfig, label: str = "label"
) -> Part:
    """Return the non-blank texts of columns, with their labels if `data.labels` is set.

    Args:
        table: a `datasets` table.
        columns: columns of text or of another tokenizer's ids; (): "text" or the only text column.
        name: name of the data for messages.
        data: the data section, whose labels, max_lines and ids_tokenizer are used.
        label: column of labels.

    Raises:
        ConfigError: if there are no such columns.
    """
    strings = [c for c, kind in table.features.items() if getattr(kind, "dtype", "") in _STRINGS]
    ids = foreign_ids.id_columns(table)
    if not columns:
        texts = [c for c in strings if not (data.labels and c == label)]
        only = "text" if "text" in texts else texts[0] if len(texts) == 1 else ""
        columns = (only,) if only else ()
    table = table.select(range(min(data.max_lines, len(table)))) if data.max_lines else table
    if ids and (set(columns) <= set(ids) if columns else not strings):
        found = [foreign_ids.decode(table, list(columns) or ids, data.ids_tokenizer, repr(name))]
    elif columns and set(columns) <= set(strings):
        found = [table[c] for c in columns]
    else:
        raise ConfigError(
            f"data.name={name!r}: its columns of text are {', '.join(strings) or 'none'};"
            f" name one as the last part of {HF_FORM}"
        )
    labels = _labels(table, label, name) if data.labels else None
    kept = [(x, i) for rows in found for i, x in enumerate(rows) if x and x.strip()]
    return Part(name, [x for x, _ in kept], labels and [labels[i] for _, i in kept])


def _labels(table: Any, label: str, name: str) -> list[str]:
    if label not in table.features:
        raise ConfigError(
            f"data.labels=True: {name!r} has no column {label!r}, but {', '.join(table.features)}"
        )
    names = getattr(table.features[label], "names", None)
    return [names[x] if names and isinstance(x, int) and x >= 0 else str(x) for x in table[label]]


def tfds_part(data: TextDataConfig) -> Part:
    """Read the texts of `data.name` = tfds:<name>[:column]."""
    target, _, column = data.name.removeprefix("tfds:").partition(":")
    return load_tfds(target, column or "text", "train", data)


def load_tfds(target: str, column: str, split: str, data: TextDataConfig) -> Part:
    """Read a column of a split of `tensorflow_datasets`, without TensorFlow.

    Args:
        target: name in tfds.
        column: column of texts.
        split: name of the split.
        data: the data section, whose name, labels and max_lines are used.

    Raises:
        ConfigError: if tfds is not installed, or the data cannot be loaded.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ConfigError(
            f"data.name={data.name!r} needs tensorflow-datasets, which is not installed:"
            " pip install 'flaxae[tfds]'"
        ) from None
    try:
        source: Any = tfds.data_source(target, split=split)
        count = min(len(source), data.max_lines or len(source))
        rows = [source[i] for i in range(count)]
        texts = [row[column] for row in rows]
        labels = [_string(row["label"]) for row in rows] if data.labels else None
    except Exception as error:  # unknown names, no network, unknown columns
        raise ConfigError(
            f"data.name={data.name!r} cannot be loaded: {reason(error)}; without a network, set"
            " data.path to a text file or TFDS_DATA_DIR to the folder of the prepared data"
        ) from None
    if not all(isinstance(text, (bytes, str, np.bytes_)) for text in texts):
        raise ConfigError(f"data.name={data.name!r}: column {column!r} contains no text")
    kept = [i for i, text in enumerate(texts) if text.strip()]
    found = labels and [labels[i] for i in kept]
    return Part(data.name, [_string(texts[i]) for i in kept], found)


def _string(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def reason(error: Exception) -> str:
    """Return the first line of an exception's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
