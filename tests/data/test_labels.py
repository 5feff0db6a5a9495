"""Tests of labels that are missing, and of labels that are not texts."""

import datetime
import json

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from flaxae.data.config import TextDataConfig
from flaxae.data.hub import load_examples, text_sources
from flaxae.data.tables import column_part
from flaxae.errors import ConfigError

TEXTS = [f"text number {i}" for i in range(6)]
GAPS = [0, None, 1, 1, None, 0]  # labels of the texts
FOUND = {t: str(x) for t, x in zip(TEXTS, GAPS, strict=True) if x is not None}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))


def _csv(rows, delimiter=","):
    return "".join(f"{delimiter.join(row)}\n" for row in rows)


def _write(folder, kind, labels):
    """Write a table of texts and labels; return the value of data.name or data.path."""
    rows = [{"text": t, "label": x} for t, x in zip(TEXTS, labels, strict=True)]
    cells = [["text", "label"]]
    cells += [[row["text"], "" if row["label"] is None else str(row["label"])] for row in rows]
    table = pyarrow.table({"text": TEXTS, "label": labels})
    path = folder / f"x.{kind}"
    match kind:
        case "csv" | "tsv":
            path.write_text(_csv(cells, "\t" if kind == "tsv" else ","))
        case "jsonl":
            path.write_text("\n".join(json.dumps(row) for row in rows))
        case "json":
            path.write_text(json.dumps(rows))
        case "parquet":
            pyarrow.parquet.write_table(table, path)
        case "arrow":
            with pyarrow.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
        case "saved":
            datasets.Dataset(table).save_to_disk(str(path))
    return {"name": f"hf:{path}"}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet", "arrow", "saved"])
def test_missing_labels_are_missing_and_counted(tmp_path, kind):
    corpus = load_examples(TextDataConfig(**_write(tmp_path, kind, GAPS), labels=True))
    assert corpus.examples == TEXTS and corpus.labels == FOUND
    assert any("2 of 6 texts have no label" in note for note in corpus.notes)


def test_missing_labels_of_shards_are_missing(tmp_path):
    _write(tmp_path, "parquet", GAPS)
    corpus = load_examples(TextDataConfig(path=str(tmp_path), labels=True))
    assert corpus.labels == FOUND and any("2 of 6" in note for note in corpus.notes)


def test_whole_numbers_that_pandas_wrote_as_floats_are_whole(tmp_path):
    labels = [0.0, float("nan"), 1.0, 1.0, None, 0.0]
    config = TextDataConfig(**_write(tmp_path, "parquet", labels), labels=True)
    assert load_examples(config).labels == FOUND
    labels = [0.5, None, 1.0, 1.0, None, 0.5]
    config = TextDataConfig(**_write(tmp_path, "jsonl", labels), labels=True)
    assert set(load_examples(config).labels.values()) == {"0.5", "1"}


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([True, False, None, True, None, None], {"True", "False"}),
        (["NA", "null", "None", "nan", " ", ""], {"NA", "null", "None", "nan"}),
        ([datetime.date(2020, 1, i) for i in range(1, 7)], {f"2020-01-0{i}" for i in range(1, 7)}),
        (["007", "7", "7.0", None, None, None], {"007", "7", "7.0"}),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_labels_stay_what_they_are(tmp_path, kind, labels, names):
    if kind != "parquet":
        labels = [str(x) if isinstance(x, datetime.date) else x for x in labels]
    config = TextDataConfig(**_write(tmp_path, kind, labels), labels=True)
    assert set(load_examples(config).labels.values()) == names


def test_texts_of_several_columns_have_the_label_of_their_row():
    rows = {"title": ["a", "b", "c"], "answer": ["x", " ", "z"], "label": [1, 2, 3]}
    data = TextDataConfig(labels=True)
    part = column_part(datasets.Dataset.from_dict(rows), ["title", "answer"], "made", data)
    assert part.texts == ["a", "b", "c", "x", "z"] and part.labels == ["1", "2", "3", "1", "3"]


def test_negative_classes_are_missing(tmp_path):
    kind = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features({"text": datasets.Value("string"), "label": kind})
    rows = {"text": TEXTS, "label": [0, 1, -1, 1, -1, None]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "x"))
    corpus = load_examples(TextDataConfig(name=f"hf:{tmp_path / 'x'}", labels=True))
    assert corpus.labels == {TEXTS[0]: "neg", TEXTS[1]: "pos", TEXTS[3]: "pos"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [([None] * 6, "all labels of .* are missing"), ([[0, 1]] * 6, r"a label is \[0, 1\]")],
)
def test_labels_that_cannot_be_used_are_errors(tmp_path, labels, message):
    config = TextDataConfig(**_write(tmp_path, "parquet", labels), labels=True)
    with pytest.raises(ConfigError, match=message):
        load_examples(config)


def test_the_first_label_that_is_given_counts(tmp_path):
    (tmp_path / "x.csv").write_text("text,label\na,\na,1\na,2\nb,\n")
    corpus = load_examples(TextDataConfig(name=f"hf:{tmp_path / 'x.csv'}", labels=True))
    assert corpus.labels == {"a": "1"}
    assert any("1 repeated lines have another label" in note for note in corpus.notes)


def test_sources_return_the_missing_label_as_an_empty_text(tmp_path):
    rows = [["text", "label"], *([f"line {i}", str(i % 2) if i % 5 else ""] for i in range(60))]
    (tmp_path / "x.csv").write_text(_csv(rows))
    options = dict(cache="", batch_size=4, num_buckets=2, tokenizer="byt5", labels=True)
    data = text_sources(TextDataConfig(name=f"hf:{tmp_path / 'x.csv'}", **options))
    for split in data.splits:
        pairs = zip(data.lines(split), data.labels(split), strict=True)
        assert all(label == dict(rows[1:])[line] for line, label in pairs)
    assert "12 of 60 texts have no label" in data.report()


def test_labels_of_tfds_may_be_missing(monkeypatch):
    import sys
    import types

    rows = [{"text": t.encode(), "label": np.int64(i - 1)} for i, t in enumerate(TEXTS[:3])]
    module = types.SimpleNamespace(data_source=lambda name, split: rows)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    corpus = load_examples(TextDataConfig(name="tfds:x", labels=True))
    assert corpus.labels == {TEXTS[1]: "0", TEXTS[2]: "1"}
