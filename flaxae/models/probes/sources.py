"""Data sets by name: facts on cities, JSONL and CSV files, and data sets of the Hub."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from flaxae.config.locate import user_path
from flaxae.data import sae_probes
from flaxae.data.facts import Fact, statements
from flaxae.data.local import is_data_file, read_local
from flaxae.data.records import json_rows, read_records
from flaxae.data.tables import load_hub
from flaxae.errors import ConfigError, require
from flaxae.models.probes.examples import Example

FACTS, HUB, SAE_PROBES = "facts:", "hf:", "sae:"
TRUTH = ("False", "True")
ASK = "{}\nIs this statement true or false?"
JSON_FILES, TABLES = (".jsonl", ".json", ".ndjson"), (".csv", ".tsv")
FIELDS = ("prompt", "choices", "label", "group")

Row = Mapping[str, Any]
Item = TypeVar("Item")


def _sentiment(text: str) -> str:
    return f"{text}\nIs the sentiment of this text negative or positive?"


def _entailed(premise: str, hypothesis: str) -> str:
    return f"{premise}\nDoes it follow that: {hypothesis}"


# Name on the Hub -> (choices in the order of the labels, question of a row, column by which rows
# are grouped: what several questions are about). In glue and super_glue label 0 is entailment.
FORMS: dict[str, tuple[tuple[str, str], Callable[[Row], str], str]] = {
    "amazon_polarity": (
        ("negative", "positive"),
        lambda row: _sentiment(f"{row['title']}\n{row['content']}"),
        "content",
    ),
    "glue/sst2": (("negative", "positive"), lambda row: _sentiment(row["sentence"]), "sentence"),
    "imdb": (("negative", "positive"), lambda row: _sentiment(row["text"]), "text"),
    "glue/qnli": (
        ("Yes", "No"),
        lambda row: f"{row['sentence']}\nDoes this answer the question: {row['question']}",
        "sentence",
    ),
    "super_glue/rte": (
        ("Yes", "No"),
        lambda row: _entailed(row["premise"], row["hypothesis"]),
        "premise",
    ),
    "super_glue/axg": (
        ("Yes", "No"),
        lambda row: _entailed(row["premise"], row["hypothesis"]),
        "premise",
    ),
    "hans": (("Yes", "No"), lambda row: _entailed(row["premise"], row["hypothesis"]), "premise"),
    "super_glue/boolq": (
        ("No", "Yes"),
        lambda row: f"{row['passage']}\n{row['question']}?",
        "passage",
    ),
}

# Name in sae-probes -> (choices in the order of the labels, question about a text). The labels are
# those of `data.sae_probes`: in 41_truthqa_tf 0 is "correct", in 44_phys_tf 0 is answer A, and in
# 90_glue_qnli 0 is entailment, as in glue.
TRUTH_SETS = {
    "36_sciq_tf": (("No", "Yes"), "{}\nIs this answer correct?"),
    "41_truthqa_tf": (("Yes", "No"), "{}\nIs this answer correct?"),
    "44_phys_tf": (("A", "B"), "{}\nWhich one is right, A or B?"),
    "54_cs_tf": (("No", "Yes"), "{}\nIs this true?"),
    "90_glue_qnli": (("Yes", "No"), "{}\nDoes the sentence answer the question?"),
}


def read_set(
    name: str, count: int = 0, seed: int = 0, *, without: Collection[str] = ()
) -> list[Example]:
    """Read a data set.

    Args:
        name: "facts:" and a kind of `flaxae.data.facts`; "hf:" and a name of `FORMS`, with an
            optional local path of its rows ("hf:imdb=rows.parquet"); "sae:" and a name of
            `TRUTH_SETS`, with an optional folder ("sae:54_cs_tf=data"); or a JSONL or CSV file with
            the fields prompt, choices (two texts; in CSV separated by "|") and label, and optional
            ones: group, polarity, split.
        count: number of facts or rows; 0: all rows, in the order of the file.
        seed: seed of the choice of facts or rows.
        without: cities that no fact may be about.

    Returns:
        The examples.

    Raises:
        ConfigError: if there is no such set, or a row is not an example.
    """
    if name.startswith(FACTS):
        return _facts(name, count, seed, without)
    if name.startswith(HUB):
        return _hub(name, count, seed)
    if name.startswith(SAE_PROBES):
        return _sae_probes(name, count, seed)
    path = user_path(name)
    require(
        path.suffix.lower() in (*JSON_FILES, *TABLES),
        f"{name!r} is not a data set: give facts:KIND ({', '.join(k.value for k in Fact)}), "
        f"hf:NAME ({', '.join(FORMS)}), sae:NAME ({', '.join(TRUTH_SETS)}), or a .jsonl or .csv "
        f"file of {', '.join(FIELDS)}",
    )
    require(path.is_file(), f"{name}: there is no such file")
    out = [_example(row, f"{name}, {where}", path.stem) for where, row in _file_rows(str(path))]
    require(bool(out), f"{name} has no rows")
    return _chosen(out, count, seed)


def _order(size: int, count: int, seed: int) -> Sequence[int]:
    """Return the order in which rows are taken: random, since many files are sorted by label."""
    return np.random.default_rng(seed).permutation(size).tolist() if count else range(size)


def _chosen(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    return [items[i] for i in _order(len(items), count, seed)[: count or None]]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _facts(name: str, count: int, seed: int, without: Collection[str]) -> list[Example]:
    kind = name.removeprefix(FACTS)
    known = [k.value for k in Fact]
    require(kind in known, f"{name!r}: the kinds of facts are {', '.join(known)}")
    if not count:
        raise ConfigError(f"{name}: set the number of facts (data.count)")
    polarity = -1 if kind == Fact.NEGATED.value else 1
    return [
        Example(ASK.format(s.text), TRUTH, int(s.label), s.group, name, polarity, entities=s.cities)
        for s in statements(kind, count, seed, without=without)
    ]


def _hub(name: str, count: int, seed: int) -> list[Example]:
    target, _, path = name.removeprefix(HUB).partition("=")
    require(target in FORMS, f"{name!r}: the known names are {', '.join(FORMS)}")
    choices, ask, about = FORMS[target]
    if path:
        require(is_data_file(path) or user_path(path).is_dir(), f"{name!r}: no data file")
        splits: Any = read_local(str(user_path(path))).splits
    else:
        hub_name, _, config = target.partition("/")
        splits = load_hub(hub_name, config, name, f"give its rows: {name}=FILE")
    table = next(iter(splits.values())) if isinstance(splits, dict) else splits
    out = []
    for number in _order(len(table), count, seed):
        if count and len(out) >= count:
            break
        row = table[number]
        try:
            prompt, group = ask(row), f"{target}/{_digest(str(row[about]))}"
        except KeyError as error:
            found = ", ".join(table.features)
            raise ConfigError(f"{name}: no column {error}; there are {found}") from None
        if row.get("label") != -1:  # unlabelled test rows
            label = _label(row.get("label"), f"{name}, row {number}")
            out.append(Example(prompt, choices, label, group, f"{HUB}{target}"))
    return out


def _sae_probes(name: str, count: int, seed: int) -> list[Example]:
    target, _, directory = name.removeprefix(SAE_PROBES).partition("=")
    require(target in TRUTH_SETS, f"{name!r}: the known names are {', '.join(TRUTH_SETS)}")
    choices, ask = TRUTH_SETS[target]
    data = sae_probes.read(target, user_path(directory) if directory else None)
    groups = data.groups
    if target == "90_glue_qnli":  # several questions about one sentence: question | sentence
        groups = [_digest(text.rpartition(" | ")[2]) for text in data.texts]
    rows = list(zip(data.texts, data.labels, groups, strict=True))
    return [
        Example(ask.format(text), choices, int(label), f"{target}/{group}", f"{SAE_PROBES}{target}")
        for text, label, group in _chosen(rows, count, seed)
    ]


def _file_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("line 1", fields) of a file; the choices of a CSV file become a list."""
    if path.lower().endswith(JSON_FILES):
        yield from json_rows(path, path)
        return
    columns = read_records("csv", [path], FIELDS).columns
    for number, values in enumerate(zip(*columns.values(), strict=True), 2):
        row = dict(zip(columns, values, strict=True))
        if isinstance(row.get("choices"), str):
            row["choices"] = row["choices"].split("|")
        yield f"line {number}", row


def _example(row: dict[str, Any], where: str, dataset: str) -> Example:
    missing = [name for name in ("prompt", "choices", "label") if row.get(name) in (None, "")]
    require(
        not missing,
        f"{where}: no {' and no '.join(missing)}; the fields are {', '.join(FIELDS)}",
    )
    prompt, choices = row["prompt"], row["choices"]
    require(isinstance(prompt, str) and bool(prompt.strip()), f"{where}: prompt is not a text")
    texts = isinstance(choices, (list, tuple)) and all(isinstance(x, str) and x for x in choices)
    if not texts or len(choices) != 2 or choices[0] == choices[1]:
        raise ConfigError(f"{where}: choices={choices!r} are not two different texts")
    group = row.get("group")
    return Example(
        prompt,
        (choices[0], choices[1]),
        _label(row["label"], where),
        f"{dataset}/{where}" if group in (None, "") else str(group),
        dataset,
        _polarity(row.get("polarity"), where),
        str(row.get("split") or ""),
    )


def _label(value: Any, where: str) -> int:
    number = int(value) if isinstance(value, str) and value.strip() in ("0", "1") else value
    if number not in (0, 1):
        raise ConfigError(f"{where}: label={value!r} is not 0 or 1, the index of the right choice")
    return int(number)


def _polarity(value: Any, where: str) -> int:
    if value in (None, ""):
        return 1
    if str(value) not in ("1", "-1"):
        raise ConfigError(f"{where}: polarity={value!r} is not 1 or -1")
    return int(value)
