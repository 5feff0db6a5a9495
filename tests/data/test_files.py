"""Tests of text files, files of label<tab>text and directories of shards."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from flaxae.data.config import TextDataConfig
from flaxae.data.files import read_path
from flaxae.data.hub import load_examples, text_sources
from flaxae.data.lines import read_lines
from flaxae.errors import ConfigError


def test_read_lines_does_not_change_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff  indented\r\n\n1\tlabelled\nform\x0cfeed\u2028x\n".encode())
    assert read_lines(str(path)) == ["  indented", "1\tlabelled", "form\x0cfeed\u2028x"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"ok\n\0\1\2", "binary"),
        (b"ok\nna\xefve\n", r"not UTF-8 \(line 2"),
    ],
)
def test_unreadable_files_raise_a_clear_error(tmp_path, raw, message):
    path = tmp_path / "bad.txt"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(ConfigError, match=message) as error:
        read_lines(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


LONG = "".join(chr(33 + i * i % 91) for i in range(200))


def _config(path, **changes):
    options = dict(cache="", batch_size=4, num_buckets=2, vocab_size=300, max_length=32)
    return TextDataConfig(path=str(path), **{**options, **changes})


def test_labels_are_read_from_lines_and_columns(tmp_path):
    path = tmp_path / "a.tsv"
    rows = [(f"{i % 3}", f"text number {i}") for i in range(60)] + [("2", LONG)]
    path.write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    data = text_sources(_config(path, labels=True))
    label_of = {text: label for label, text in rows}
    for split in data.splits:
        lines = data.lines(split)
        assert data.labels(split) == [label_of[line] for line in lines]
        assert all("\t" not in line and line != LONG for line in lines)
    plain = text_sources(_config(path))
    assert plain.lines("train")[0][:2] in ("0\t", "1\t", "2\t")
    with pytest.raises(ConfigError, match="set data.labels=True"):
        plain.labels("train")


def test_a_text_with_two_labels_has_the_first(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("a\tsame\nb\tsame\na\tother\nb\ttabs\tinside\n")
    corpus = load_examples(_config(path, labels=True))
    assert corpus.labels == {"same": "a", "other": "a", "tabs\tinside": "b"}
    assert any("1 repeated lines have another label" in note for note in corpus.notes)


@pytest.mark.parametrize("bad", ["no label", "\tno label", "0\t", "0\t "])
def test_errors_name_the_line(tmp_path, bad):
    path = tmp_path / "a.tsv"
    path.write_text(f"0\tgood\n\n1\tgood too\n{bad}\n")
    with pytest.raises(ConfigError, match="line 4: .*is not label<tab>text"):
        load_examples(_config(path, labels=True))


def test_embedded_corpora_have_no_labels():
    with pytest.raises(ConfigError, match="'docstrings' has no labels"):
        load_examples(TextDataConfig(name="docstrings", labels=True))


def test_a_directory_of_shards_is_one_corpus(tmp_path):
    (tmp_path / "b.txt").write_text("three\none\n")
    table = pyarrow.table({"text": ["one", "two", "  ", None], "label": [0, 1, 1, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "notes.md").write_text("not data")
    (tmp_path / "c.txt").write_text("")
    corpus = load_examples(_config(tmp_path))
    assert corpus.examples == ["one", "two", "three"]
    assert corpus.file_names == ["a.parquet", "b.txt"]
    (tmp_path / "b.txt").unlink()
    assert load_examples(_config(tmp_path, labels=True)).labels == {"one": "0", "two": "1"}
    pyarrow.parquet.write_table(table.rename_columns(["x", "label"]), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="no readable columns"):
        load_examples(_config(tmp_path))


def test_incomplete_directories_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="directory without shards.*hf:"):
        list(read_path(str(tmp_path)))
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": {"a.txt": {}, "b.txt": {}}}))
    with pytest.raises(ConfigError, match="lacks 1 of 2 shards, b.txt first"):
        list(read_path(str(tmp_path)))
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a readable manifest"):
        list(read_path(str(tmp_path)))
