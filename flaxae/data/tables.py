"""Tables of `datasets` and `tfds`, and the texts and labels in them."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxae.data import foreign_ids
from flaxae.data.config import TextDataConfig
from flaxae.data.files import Part
from flaxae.data.folders import HELD_OUT, SPLITS
from flaxae.data.labels import label_text
from flaxae.data.local import is_data_file, read_local
from flaxae.data.records import is_number
from flaxae.errors import HUB_ACCESS, ConfigError, causes, is_network, is_refused

HF_FORM = "hf:<name or local path>[:config][:column]"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?$")
_STRINGS = ("string", "large_string", "string_view", "null")  # null: all values are missing


def hugging_face(data: TextDataConfig) -> list[Part]:
    """Read the texts of `data.name` = hf:...: one part for each split.

    Raises:
        ConfigError: if a table cannot be loaded, or has no such column.
    """
    name = data.name
    path, column = local_path(os.path.expanduser(name.removeprefix("hf:")))
    if path:
        splits, notes = read_local(path, (column,) if column else ())
    else:
        target, *rest = name.removeprefix("hf:").split(":")
        if not target or len(rest) > 2:
            raise ConfigError(f"data.name={name!r} is not {HF_FORM}")
        if is_data_file(target) or not _HUB_ID.match(target):
            raise ConfigError(f"data.name={name!r}: there is nothing at {target!r}")
        config, column = (*rest, "", "")[:2]
        hint = "give a local path (hf:/path) or data.path"
        splits, notes = load_hub(target, config, f"data.name={name!r}", hint), []
    columns = (column,) if column else ()
    splits, more = _known_splits(splits, name)
    notes = notes + more
    parts = []
    for split, table in splits.items():
        try:
            part = column_part(table, columns, name, data)
        except ConfigError as error:
            raise ConfigError("; ".join([str(error), *notes])) from None
        part_name = name if len(splits) == 1 else split
        parts.append(dataclasses.replace(part, name=part_name, split=HELD_OUT[split]))
    parts[0].notes[:0] = notes
    return parts


def local_path(text: str) -> tuple[str, str]:
    """Return the path and the column of PATH[:COLUMN]; "" if there is nothing at the path."""
    path, colon, column = text.rpartition(":")
    if os.path.exists(text) or not colon:
        return (text, "") if os.path.exists(text) else ("", "")
    return (path, column) if os.path.exists(path) else ("", "")


def _known_splits(loaded: Any, name: str) -> tuple[dict[str, Any], list[str]]:
    """Return the splits that are used, by their common names, and notes on splits."""
    if not isinstance(loaded, dict):
        return {"train": loaded}, []
    known = {word: split for split, words in SPLITS.items() for word in words}
    keys: dict[str, str] = {}  # common name -> the data set's own
    for key, table in loaded.items():
        split = known.get(str(key).lower(), "")
        if split and split not in keys and len(table):
            keys[split] = str(key)
    if "train" not in keys:
        keys = {"train": str(next(iter(loaded)))}
    unused = [str(key) for key in loaded if str(key) not in keys.values()]
    notes = []
    if len(keys) > 1:
        held_out = ", ".join(key for split, key in keys.items() if split != "train")
        notes.append(f"{name}: its own splits are held out: {held_out}")
    if not unused and known.get(keys["train"].lower()) != "train":
        notes.append(f"{name}: it has no split 'train': trained on is {keys['train']!r}")
    if unused:
        notes.append(f"{name}: trained on is {keys['train']!r}; not used: {', '.join(unused)}")
    return {split: loaded[key] for split, key in keys.items()}, notes


def load_hub(target: str, config: str, what: str, hint: str) -> Any:
    """Load a data set of the Hub.

    Args:
        target: name on the Hub.
        config: configuration of the data set; "": its default.
        what: beginning of the error message.
        hint: the way out without a network.

    Raises:
        ConfigError: if there is no such data set, or it cannot be loaded.
    """
    import datasets  # slow to import, and only needed here

    try:
        return datasets.load_dataset(target, config or None)
    except Exception as error:  # exceptions of the Hub client and of the network
        if is_network(error):
            end = f"{causes(error, whole=False)}; without a network, {hint}"
        else:
            end = f"{causes(error)}{f' ({HUB_ACCESS})' if is_refused(error) else ''}"
            end += f"; the form is {HF_FORM}" if type(error) is ValueError else ""
        raise ConfigError(f"{what} cannot be loaded: {end}") from None


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
        ConfigError: if there are no such columns, or they cannot be read.
    """
    strings = [c for c, kind in table.features.items() if getattr(kind, "dtype", "") in _STRINGS]
    ids = foreign_ids.id_columns(table)
    try:
        if not columns:
            texts = [c for c in strings if not (data.labels and c == label)]
            if "text" in texts:
                texts = ["text"]
            elif len(texts) > 1:
                texts = [c for c in texts if not _all_numbers(table[c])]
            columns = tuple(texts) if len(texts) == 1 else ()
        table = table.select(range(min(data.max_lines, len(table)))) if data.max_lines else table
        if ids and (set(columns) <= set(ids) if columns else not strings):
            chosen = list(columns) or ids
            found = [foreign_ids.decode(table, chosen, data.ids_tokenizer, repr(name))]
        elif columns and set(columns) <= set(strings):
            found = [table[c] for c in columns]
        else:
            others = [c for c in table.features if c not in strings]
            more = f" (not text: {', '.join(others)})" if others else ""
            raise ConfigError(
                f"data.name={name!r}: its columns of text are {', '.join(strings) or 'none'}{more};"
                f" name one as the last part of {HF_FORM}"
            )
        labels = _labels(table, label, name) if data.labels else None
        values = [x for rows in found for x in rows]
    except ConfigError:
        raise
    except Exception as error:  # the files of a table are read here, and may be damaged
        raise ConfigError(f"data.name={name!r} cannot be read: {causes(error)}") from None
    kept = [i for i, x in enumerate(values) if x and x.strip()]
    kept_labels = labels and [labels[i % len(labels)] for i in kept]
    return Part(name, [values[i] for i in kept], kept_labels, blank=len(values) - len(kept))


def _all_numbers(values: Any) -> bool:
    return all(is_number(x) for x in values if x and x.strip())


def _labels(table: Any, label: str, name: str) -> list[str]:
    if label not in table.features:
        raise ConfigError(
            f"data.labels=True: {name!r} has no column {label!r}, but {', '.join(table.features)}"
        )
    names = getattr(table.features[label], "names", None)
    return [label_text(x, names) for x in table[label]]


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
        labels = [_tfds_label(row["label"]) for row in rows] if data.labels else None
    except Exception as error:  # unknown names, no network, unknown columns
        raise ConfigError(
            f"data.name={data.name!r} cannot be loaded: {causes(error)}; without a network, set"
            " data.path to a text file or TFDS_DATA_DIR to the folder of the prepared data"
        ) from None
    if not all(isinstance(text, (bytes, str, np.bytes_)) for text in texts):
        raise ConfigError(f"data.name={data.name!r}: column {column!r} contains no text")
    kept = [i for i, text in enumerate(texts) if text.strip()]
    found = labels and [labels[i] for i in kept]
    blank = len(texts) - len(kept)
    return Part(data.name, [_string(texts[i]) for i in kept], found, blank=blank)


def _tfds_label(value: Any) -> str:
    """Return a label; tfds writes -1 where it is missing."""
    text = label_text(value)
    return "" if text == "-1" else text


def _string(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
