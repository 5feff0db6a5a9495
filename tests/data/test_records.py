"""Tests of tables in text files: CSV, TSV and JSON."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxae.data.config import TextDataConfig
from flaxae.data.hub import load_examples
from flaxae.data.records import read_records
from flaxae.errors import ConfigError


def _load(path, column="", **options):
    return load_examples(TextDataConfig(name=f"hf:{path}{column and ':' + column}", **options))


def _file(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


WORDS = ["null", "NA", "NaN", "None", "true", "007", "1e5", "2020-01-01", "#N/A", "  x "]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_texts_that_look_like_other_values_are_texts(tmp_path, kind):
    if kind == "jsonl":
        content = "\n".join(json.dumps({"text": word}) for word in WORDS)
    else:
        content = "\n".join(["text", *WORDS])
    assert _load(_file(tmp_path, f"x.{kind}", content)).examples == WORDS


def test_dates_in_json_stay_texts(tmp_path):
    rows = [{"text": "2020-01-01"}, {"text": "2020-01-02T10:00:00"}]
    content = "\n".join(json.dumps(row) for row in rows)
    corpus = _load(_file(tmp_path, "x.jsonl", content))
    assert corpus.examples == ["2020-01-01", "2020-01-02T10:00:00"]


def test_records_without_text_are_counted(tmp_path):
    corpus = _load(_file(tmp_path, "x.csv", 'text,n\na,1\n,2\n"",3\n" ",4\nb,\n'))
    assert corpus.examples == ["a", "b"]
    assert "3 records without text are left out" in corpus.notes
    rows = '{"text": "a"}\n{"text": null}\n{"n": 1}\n'
    assert "2 records without text are left out" in _load(_file(tmp_path, "x.jsonl", rows)).notes


@pytest.mark.parametrize(
    ("content", "examples", "note"),
    [
        (
            "a first text of it,1\na second one,2\n",
            ["a first text of it", "a second one"],
            "no head",
        ),
        ("good,1\nbad,0\n", ["good", "bad"], "no header"),
        ("It rained.\nIt snowed.\n", ["It rained.", "It snowed."], "no header"),
        ("review\nIt rained.\n", ["It rained."], "read as the header: review"),
        (",text\n0,It rained.\n", ["It rained."], "read as the header: column 1, text"),
        ("0,1\nIt rained.,5\n", ["It rained."], "read as the header: 0, 1"),
        ("\ufefftext,label\r\nIt rained.,1\r\n", ["It rained."], "header: text, label"),
        ("label;text\n1;It rained, then.\n", ["It rained, then."], "separated by ;"),
        ("I came; I saw.\nHe came.\n", ["I came; I saw.", "He came."], "no header"),
        ('text\n"two\nlines"\n"a ""b"""\n', ["two\nlines", 'a "b"'], "header: text"),
    ],
)
def test_headers_are_told_from_data(tmp_path, content, examples, note):
    corpus = _load(_file(tmp_path, "x.csv", content))
    assert corpus.examples == examples
    assert any(note in found for found in corpus.notes)


def test_a_column_that_is_asked_for_is_a_header(tmp_path):
    path = _file(tmp_path, "x.csv", "the text of a review,n\nIt rained.,1\n")
    assert _load(path, "the text of a review").examples == ["It rained."]
    assert _load(path).examples == ["It rained."]  # n above a number
    path = _file(tmp_path, "y.csv", "the text of a review\nIt rained.\n")
    assert _load(path, "the text of a review").examples == ["It rained."]
    assert len(_load(path).examples) == 2


def test_columns_are_named_if_several_may_be_meant(tmp_path):
    path = _file(tmp_path, "x.csv", "pos,good movie\nneg,bad movie\n")
    with pytest.raises(ConfigError, match="text are pos, good movie; .*read as the header: pos"):
        _load(path)


def test_tabs_separate_whatever_the_quotation_marks(tmp_path):
    path = _file(tmp_path, "x.tsv", 'label\ttext\n1\t"Hello," he said\n0\t5" disk\n')
    assert _load(path).examples == ['"Hello," he said', '5" disk']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "text,label\na,1\nb,2,3\n", "x.csv', line 3: 3 fields, but 2 in the first"),
        ("x.csv", 'text,label\n"a\nb",1\nc\n', "line 4: 1 field, but"),
        ("x.csv", 'text,label\na,1\n"b,2\nc,3\n', "line 3: not valid CSV"),
        ("x.csv", "\n\n", "is empty"),
        ("x.csv", b"text\nna\xefve\n", r"not UTF-8 \(line 2"),
        ("x.csv", "text\na\n".encode("utf-16"), "UTF-16.*iconv"),
        ("x.jsonl", '{"text": "a"}\n{"text": \n', "x.jsonl', line 2: not JSON"),
        ("x.jsonl", '{"text": "a"}\n\n["a"]\n', r"line 3: \[\"a\"\] is not an object"),
        ("x.json", '[{"text": "a"},\n {"text" "b"}]', "line 2: not a list in JSON"),
        ("x.jsonl", '{"a":' * 9000, "line 1: not JSON .maximum recursion"),
        ("x.json", "[]", "contains no records"),
        ("x.json", '[{"text": "a"}, 5]', "entry 2: 5 is not an object"),
        ("x.json", '{\n"text": ["a"]\n}', "one JSON value over several lines"),
        ("x.jsonl", b'{"text": "na\xefve"}\n', r"not UTF-8 \(line 1"),
        ("x.jsonl", '{"text": "a"}\n{"text": "b \\ud83d"}\n', "line 2: .*half of a surrogate"),
        ("x.json", '[{"text": "b"}, {"text": "\\udcff"}]', "entry 2: .*half of a surrogate"),
        ("x.jsonl", b"\x1f\x8b...", r"is compressed \(gzip\): .*gunzip"),
    ],
)
def test_errors_name_file_and_line(tmp_path, name, content, message):
    path = _file(tmp_path, name, content)
    with pytest.raises(ConfigError, match=message) as error:
        _load(path)
    assert str(path) in str(error.value)


def test_whole_pairs_of_surrogates_are_characters(tmp_path):
    path = _file(tmp_path, "x.jsonl", '{"text": "\\ud83d\\ude00"}\n')
    assert _load(path).examples == ["\U0001f600"]


def test_values_of_several_kinds_in_json(tmp_path):
    rows = [{"text": 5}, {"text": "x"}, {"text": True}, {"text": None}]
    path = _file(tmp_path, "x.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert _load(path).examples == ["5", "x", "true"]


def test_columns_that_arrow_cannot_store_are_named(tmp_path):
    rows = [{"text": "a", "n": 10**30, "x": {"y": 1}}, {"text": "b", "n": 1, "x": 5}]
    path = _file(tmp_path, "x.jsonl", "\n".join(json.dumps(row) for row in rows))
    corpus = _load(path)
    assert corpus.examples == ["a", "b"]
    assert "'n' is not read: its values are of several kinds" in corpus.notes
    with pytest.raises(ConfigError, match="columns of text are text.*'x' is not read"):
        _load(path, "x")


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.csv", "text\n"), ("x.csv", 'text\n""\n'), ("x.jsonl", '{"text": null}')],
)
def test_tables_without_a_text_are_errors(tmp_path, name, content):
    with pytest.raises(ConfigError, match=f"{name}' contains no text"):
        _load(_file(tmp_path, name, content))


def test_files_with_other_columns_are_named(tmp_path):
    _file(tmp_path, "a.csv", "text,label\na,1\n")
    _file(tmp_path, "b.csv", "label,text\n1,b\n")
    with pytest.raises(ConfigError, match="b.csv' has the columns label, text, but .*a.csv"):
        _load(tmp_path)


CELLS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


@settings(max_examples=30)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.sampled_from(",\t;"))
def test_any_cells_survive_a_csv_file(tmp_path_factory, rows, delimiter):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *rows])
    path = tmp_path_factory.mktemp("csv") / ("x.tsv" if delimiter == "\t" else "x.csv")
    path.write_bytes(stream.getvalue().encode())
    columns = read_records("csv", [str(path)]).columns
    assert list(zip(columns["text"], columns["label"], strict=True)) == rows
