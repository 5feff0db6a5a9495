"""Data sets of published papers by name, with their own held-out splits and one text per line.

`recipe:<name>` loads from the Hub or from tfds. `recipe:<name>:<path>` reads local files: parquet,
json or csv files of a Hub data set, the output of save_to_disk, or text files (one text or
label<tab>text per line). The words in the path of a file are its split (see `folders.split_of`).
"""

import dataclasses
import html
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from flaxae.data import tables
from flaxae.data.config import TextDataConfig
from flaxae.data.files import Part, read_path
from flaxae.data.folders import HELD_OUT, check_content, compression, is_about_data, named, split_of
from flaxae.data.lines import read_lines
from flaxae.data.local import FORMATS, load_files, read_local
from flaxae.data.sentences import sentence_status, split_sentences
from flaxae.errors import ConfigError

FORM = "recipe:<name>[:local path]"
_TAGS = re.compile(r"<br\s*/?>|\\n|\n", re.IGNORECASE)
_LABELLED = re.compile(r"[^\t]{1,40}\t[^\t]+")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Rules that turn a data set into lines.

    Attributes:
        columns: alternatives of text columns; the first one that a table has is used.
        hub: name on the Hub and its config; "": none.
        tfds: name in tfds; "": none.
        splits: names of the splits that are used.
        label: column of labels; "": lines have no labels.
        lines: function from a text of a table to lines.
    """

    columns: tuple[tuple[str, ...], ...]
    hub: tuple[str, str] = ("", "")
    tfds: str = ""
    splits: tuple[str, ...] = ("train", "validation", "test")
    label: str = ""
    lines: Callable[[str], list[str]] = lambda text: [text.strip()]


def _sentences(text: str) -> list[str]:
    """Return the sentences of 4 to 64 words of a review or answer, without tags."""
    text = html.unescape(_TAGS.sub("\n", text)).replace('\\"', '"')
    return [s for s in split_sentences(text) if sentence_status(s) == "kept"]


RECIPES = {
    # Premises and hypotheses; a label belongs to a pair, so lines have none.
    "snli": Recipe(
        hub=("stanfordnlp/snli", ""),
        columns=(("premise", "hypothesis"), ("sentence1", "sentence2")),
    ),
    "yelp": Recipe(
        hub=("fancyzhx/yelp_polarity", ""),
        columns=(("text",),),
        splits=("train", "test"),
        label="label",
        lines=_sentences,
    ),
    "yahoo": Recipe(
        hub=("community-datasets/yahoo_answers_topics", ""),
        columns=(("question_title", "question_content", "best_answer"),),
        splits=("train", "test"),
        label="topic",
        lines=_sentences,
    ),
    # Mikolov's preparation: lower case, <unk>, N for numbers.
    "ptb": Recipe(hub=("ptb-text-only/ptb_text_only", "penn_treebank"), columns=(("sentence",),)),
    "lm1b": Recipe(tfds="lm1b", columns=(("text",),), splits=("train", "test")),
    "wikipedia": Recipe(columns=(("text",),)),
}


def parts(data: TextDataConfig) -> Iterator[Part]:
    """Read the parts of `data.name` = recipe:<name>[:local path] and mark held-out splits.

    Args:
        data: the data section.

    Yields:
        The parts.

    Raises:
        ConfigError: if there is no such recipe, its data cannot be read, or it has no labels.
    """
    name, _, path = data.name.removeprefix("recipe:").partition(":")
    if name not in RECIPES:
        raise ConfigError(f"data.name={data.name!r}: the recipes are {', '.join(RECIPES)} ({FORM})")
    recipe = RECIPES[name]
    if data.labels and not recipe.label:
        raise ConfigError(f"data.labels=True: a line of {data.name!r} has no label")
    if name == "wikipedia":
        yield from _wikipedia(data, path)
    elif path:
        yield from _local(data, recipe, path)
    else:
        yield from _remote(data, recipe, name)


def _wikipedia(data: TextDataConfig, path: str) -> Iterator[Part]:
    folder = path or os.path.join(data.cache, "wikipedia")
    if not os.path.isdir(folder):
        raise ConfigError(
            f"data.name={data.name!r}: there are no shards at {folder!r}; build them with"
            f" python -m flaxae.data.wikipedia {folder}, or name their directory:"
            " recipe:wikipedia:/path"
        )
    yield from read_path(folder)


def _remote(data: TextDataConfig, recipe: Recipe, name: str) -> Iterator[Part]:
    if recipe.tfds:
        for split in recipe.splits:
            part = tables.load_tfds(recipe.tfds, recipe.columns[0][0], split, data)
            yield dataclasses.replace(part, name=split, split=HELD_OUT[split])
        return
    hint = f"; without a network, give local files: data.name=recipe:{name}:/path"
    loaded = tables.load_hub(*recipe.hub, f"data.name={data.name!r} ({recipe.hub[0]})", hint)
    for split in recipe.splits:
        yield _from_table(loaded[split], split, split, data, recipe)


def _from_table(table: Any, name: str, split: str, data: TextDataConfig, recipe: Recipe) -> Part:
    columns = next((c for c in recipe.columns if set(c) <= set(table.features)), ())
    label = recipe.label
    if data.labels and label not in table.features and "label" in table.features:
        label = "label"
    part = tables.column_part(table, columns, name, data, label)
    texts, labels = [], []
    for i, text in enumerate(part.texts):
        lines = recipe.lines(text)
        texts += lines
        labels += [part.labels[i]] * len(lines) if part.labels is not None else []
    kept = labels if part.labels is not None else None
    return Part(name, texts, kept, HELD_OUT[split], part.blank, part.notes)


def _local(data: TextDataConfig, recipe: Recipe, path: str) -> Iterator[Part]:
    if not os.path.exists(path):
        raise ConfigError(f"data.name={data.name!r}: there is nothing at {path!r}")
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        loaded = read_local(path).splits
        for split in (x for x in recipe.splits if x in loaded):
            yield _from_table(loaded[split], split, split, data, recipe)
        return
    by_split: dict[str, list[str]] = {}
    if os.path.isfile(path):
        check_content(path, repr(path))
    files, unused = _data_files(path)
    for file in files:
        split = split_of(os.path.relpath(file, os.path.dirname(path))) or "train"
        by_split.setdefault(split, []).append(file)
    if not by_split:
        raise ConfigError(f"data.name={data.name!r}: {path!r} contains no data files")
    left_out = [f"{path}: not used: {named(unused)}"] if unused else []
    for split in (x for x in HELD_OUT if x in by_split):
        files = by_split[split]
        if table_files := [f for f in files if _is_table(f)]:
            wanted = tuple(name for columns in recipe.columns for name in columns)
            table, notes = load_files(table_files, wanted)
            part = _from_table(table, split, split, data, recipe)
            yield dataclasses.replace(part, notes=left_out + notes + part.notes)
            left_out = []
        for file in (f for f in files if not _is_table(f)):
            part = _text_part(file, recipe, data.labels)
            yield dataclasses.replace(part, split=HELD_OUT[split], notes=left_out)
            left_out = []


def _data_files(path: str) -> tuple[list[str], list[str]]:
    """Return the data files at a path, and the archives there, which are not read."""
    if os.path.isfile(path):
        return [path], []
    found = [os.path.join(folder, f) for folder, _, files in os.walk(path) for f in files]
    found = sorted(f for f in found if not _hidden(f, path))
    ignored = (".md", ".py", ".lock", ".gitattributes", "dataset_infos.json")
    data = [f for f in found if not f.endswith(ignored) and not is_about_data(f)]
    data = [f for f in data if not compression(f)]
    return data, [os.path.relpath(f, path) for f in found if compression(f)]


def _hidden(file: str, path: str) -> bool:
    return any(x.startswith(".") for x in os.path.relpath(file, path).split(os.sep))


def _extension(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def _is_table(file: str) -> bool:
    return _extension(file) in FORMATS and _extension(file) != ".txt"


def _text_part(file: str, recipe: Recipe, labels: bool) -> Part:
    """Read a text file; labels are before a tab, or the ending of a name (sentiment.train.1)."""
    lines = [line.strip() for line in read_lines(file)]
    name = os.path.basename(file)
    if recipe.label and all(_LABELLED.fullmatch(line) for line in lines):
        pairs = [line.split("\t") for line in lines]
        return Part(name, [text for _, text in pairs], [label for label, _ in pairs])
    suffix = _extension(file).removeprefix(".")
    if not labels:
        return Part(name, lines)
    if not suffix.isdigit():
        raise ConfigError(
            f"data.labels=True: {file!r} has no labels: its lines must all be label<tab>text, or"
            " its name must end in one (sentiment.train.1)"
        )
    return Part(name, lines, [suffix] * len(lines))
