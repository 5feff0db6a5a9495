"""Tests of which files of a folder are read, held out, named as unused, or refused."""

import bz2
import gzip
import json
import lzma
import os
import zipfile

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxae.data.config import TextDataConfig
from flaxae.data.files import read_path
from flaxae.data.folders import split_of
from flaxae.data.hub import load_examples
from flaxae.data.text import split_corpus
from flaxae.errors import ConfigError

LINES = [f"text number {i}" for i in range(40)]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))


def _write(folder, name, lines=LINES):
    """Write texts as the ending of the name says."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    match path.suffix:
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.table({"text": lines}), path)
        case ".jsonl":
            path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        case ".csv":
            path.write_text(f"text\n{text}")
        case ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        case ".bz2":
            path.write_bytes(bz2.compress(text.encode()))
        case ".xz":
            path.write_bytes(lzma.compress(text.encode()))
        case ".zst":
            path.write_bytes(b"\x28\xb5\x2f\xfd" + text.encode())
        case ".zip":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("a.txt", text)
        case _:
            path.write_text(text)
    return path


def _config(path):
    return TextDataConfig(path=str(path), cache="")


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.ndjson", "x.arrow", "X.JSONL"])
def test_a_table_is_not_read_as_lines(tmp_path, name):
    path = _write(tmp_path, name)
    with pytest.raises(ConfigError, match=f"is a table.*--config.data.name=hf:{path}"):
        load_examples(_config(path))
    with pytest.raises(ConfigError, match="--corpus=.*is a table.*write its texts to a .txt"):
        list(read_path(str(path), option="--corpus"))


@pytest.mark.parametrize(
    ("name", "tool"),
    [("x.gz", "gunzip"), ("x.bz2", "bunzip2"), ("x.xz", "unxz"), ("x.zst", "unzstd")]
    + [("x.zip", "unzip")],
)
def test_compressed_files_are_refused_with_the_tool(tmp_path, name, tool):
    path = _write(tmp_path, name)
    for renamed in (name, "x.txt", "x.parquet", "x.jsonl"):
        path = path.rename(tmp_path / renamed)
        prefix = {"name": f"hf:{path}"} if renamed.endswith((".jsonl", ".parquet")) else None
        config = TextDataConfig(**prefix) if prefix else _config(path)
        with pytest.raises(ConfigError, match=f"is compressed .*unpack it first with {tool}$"):
            load_examples(config)


def test_pointers_of_git_lfs_are_refused(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    for name in ("x.txt", "x.parquet"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(ConfigError, match="Git LFS pointer.*git lfs pull"):
            load_examples(_config(tmp_path / name))


def test_files_that_are_not_used_are_named(tmp_path):
    for name in ("a.txt", "d.txt.gz", "e.jsonl", "sub/g.txt", "README.md", ".hidden.txt"):
        _write(tmp_path, name, [name])
    (tmp_path / "empty.txt").write_text(" \n")
    corpus = load_examples(_config(tmp_path))
    assert corpus.examples == ["a.txt"]
    assert corpus.notes == [
        f"{tmp_path}: not used: README.md, d.txt.gz (compressed: unpack it with gunzip), e.jsonl"
        " (a table), sub/g.txt (in a subfolder)",
        f"{tmp_path}: tables are read with data.name=hf:FILE, without data.path",
        f"{tmp_path}: empty files: empty.txt",
    ]


def test_texts_about_the_data_are_not_data(tmp_path):
    for name in (".gitattributes", "README.md", "README.txt", "LICENSE-MIT.txt"):
        _write(tmp_path / "hub", name, [name])
    (tmp_path / "hub/dataset_infos.json").write_text("{}")
    _write(tmp_path / "hub", "data/train-00000-of-00001.parquet")
    notes = "not used: LICENSE-MIT.txt (about the data), README.md, README.txt (about the data)"
    for data in (_config(tmp_path / "hub"), TextDataConfig(name=f"hf:{tmp_path / 'hub'}")):
        corpus = load_examples(data)
        assert (corpus.examples, corpus.notes) == (LINES, [f"{tmp_path / 'hub'}: {notes}"])
    _write(tmp_path / "csv", "train.csv")
    _write(tmp_path / "csv", "license.txt")
    assert load_examples(TextDataConfig(name=f"hf:{tmp_path / 'csv'}")).examples == LINES


def test_subfolders_are_read_if_the_folder_has_only_them(tmp_path):
    for name in ("train/a.txt", "train/b.txt", "test/c.txt", ".git/d.txt"):
        _write(tmp_path, name, [name])
    corpus = load_examples(_config(tmp_path))
    assert corpus.examples == ["train/a.txt", "train/b.txt", "test/c.txt"]
    assert corpus.held_out == {2: "test_file"}


@pytest.mark.parametrize("option", ["path", "name"])
def test_splits_follow_file_names(tmp_path, option):
    for split, name in (
        ("train", "train-00000-of-00002.parquet"),
        ("train2", "train-00001-of-00002.parquet"),
        ("dev", "validation.parquet"),
        ("test", "my_test.parquet"),
        ("other", "contest.parquet"),
    ):
        _write(tmp_path, name, [f"{split} {i}" for i in range(30)])
    path = str(tmp_path) if option == "path" else ""
    corpus = load_examples(TextDataConfig(path=path, name=f"hf:{tmp_path}", cache=""))
    splits = split_corpus(corpus, 0)
    assert {x.split()[0] for x in splits["train"]} == {"train", "train2", "other"}
    assert splits["test_file"] == [f"test {i}" for i in range(30)]
    assert {f"dev {i}" for i in range(30)} <= set(splits["dev"])
    assert any("validation: validation.parquet" in note for note in corpus.notes)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.txt", "train"),
        ("TRAIN-1.txt", "train"),
        ("data_training.txt", "train"),
        ("val.csv", "validation"),
        ("my.dev.txt", "validation"),
        ("valid2.txt", "validation"),
        ("eval.txt", "test"),
        ("x/testing/0.txt", "test"),
        ("train/test.txt", "test"),
        ("latest.txt", ""),
        ("retrained.txt", ""),
        ("device.txt", ""),
        ("value.txt", ""),
    ],
)
def test_split_words(path, split):
    assert split_of(path) == split


@pytest.mark.parametrize("names", [("test.txt",), ("dev.txt", "test-1.txt")])
def test_a_folder_of_held_out_data_only_is_an_error(tmp_path, names):
    for name in names:
        _write(tmp_path, name)
    with pytest.raises(ConfigError, match="has no training data"):
        load_examples(_config(tmp_path))


def test_missing_shards_are_named(tmp_path):
    _write(tmp_path, "a-00000-of-00003.txt")
    _write(tmp_path, "a-00002-of-00003.txt")
    assert f"{tmp_path}: 1 of 3 shards are missing: a-00001-of-00003.txt" in (
        load_examples(_config(tmp_path)).notes
    )


def test_links_and_unreadable_files(tmp_path):
    target = _write(tmp_path / "elsewhere", "data.bin")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").symlink_to(target)
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    corpus = load_examples(_config(folder))
    assert corpus.examples == LINES and "not used: sub (a link to a folder)" in corpus.notes[0]
    (folder / "closed").mkdir()
    (folder / "closed" / "x.txt").symlink_to("nowhere")  # in a subfolder that is not used
    assert "closed/x.txt (in a subfolder)" in load_examples(_config(folder)).notes[0]
    target.unlink()
    with pytest.raises(ConfigError, match="a.txt' is a link to .*data.bin', which does not exist"):
        load_examples(_config(folder))
    (folder / "a.txt").unlink()
    (folder / "b.txt").write_bytes(b"PAR1\0")
    with pytest.raises(ConfigError, match="not text but a .parquet file: give it that ending"):
        load_examples(_config(folder))
    (folder / "b.txt").write_bytes(b"ok\n\0")
    with pytest.raises(ConfigError, match="b.txt' is a binary file"):
        load_examples(_config(folder))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_examples(_config(f"{tmp_path}/a\0b"))


def test_tables_of_several_kinds_are_named(tmp_path):
    _write(tmp_path, "a.csv")
    _write(tmp_path, "b.jsonl")
    with pytest.raises(ConfigError, match=r"csv: a.csv; json: b.jsonl: name one file"):
        load_examples(TextDataConfig(name=f"hf:{tmp_path}"))
    with pytest.raises(
        ConfigError, match=r"without shards .*it contains a.csv .a table., b.jsonl .*hf:"
    ):
        load_examples(_config(tmp_path))


def test_missing_local_files_are_not_looked_for_on_the_hub(tmp_path):
    for name in (f"{tmp_path}/x", "x.jsonl", "./x"):
        with pytest.raises(ConfigError, match="there is nothing at"):
            load_examples(TextDataConfig(name=f"hf:{name}"))


def test_paths_may_contain_a_colon(tmp_path):
    path = _write(tmp_path, "a:b.csv")
    assert load_examples(TextDataConfig(name=f"hf:{path}")).examples == LINES
    assert load_examples(TextDataConfig(name=f"hf:{path}:text")).examples == LINES


def test_notes_say_that_lines_look_like_a_table(tmp_path):
    path = _write(tmp_path, "x.tsv", [f"1\t{line}" for line in LINES])
    assert "need data.labels=True" in load_examples(_config(path)).notes[0]
    path = _write(tmp_path, "x.txt", [json.dumps({"text": line}) for line in LINES])
    assert "look like JSON" in load_examples(_config(path)).notes[0]
    path = _write(tmp_path, "y.tsv", ["label\ttext", "1\ta", "0\tb"])
    corpus = load_examples(TextDataConfig(path=str(path), labels=True))
    assert corpus.examples == ["a", "b"]
    assert "read as the header: label, text" in corpus.notes[0]


def _saved(folder):
    table = datasets.Dataset.from_dict({"text": LINES})
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(folder))


BROKEN = {
    "split": lambda f: (f / "test").rename(f / "gone"),
    "arrow": lambda f: (f / "train" / "data-00000-of-00001.arrow").unlink(),
    "cut": lambda f: (f / "train" / "data-00000-of-00001.arrow").write_bytes(b"ARROW"),
    "state": lambda f: (f / "train" / "state.json").unlink(),
    "json": lambda f: (f / "train" / "state.json").write_text("{"),
    "keys": lambda f: (f / "train" / "state.json").write_text("{}"),
    "info": lambda f: (f / "train" / "dataset_info.json").unlink(),
    "names": lambda f: (f / "dataset_dict.json").write_text("[]"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_output_of_save_to_disk_is_one_message(tmp_path, fault):
    _saved(tmp_path / "x")
    BROKEN[fault](tmp_path / "x")
    with pytest.raises(ConfigError, match="is not a whole output of save_to_disk") as error:
        load_examples(TextDataConfig(name=f"hf:{tmp_path / 'x'}"))
    assert str(tmp_path / "x") in str(error.value) and "\n" not in str(error.value)


def test_saved_splits_are_held_out(tmp_path):
    tables = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {i}" for i in range(20)]})
        for name in ("unsupervised", "train", "valid", "test")
    }
    datasets.DatasetDict(tables).save_to_disk(str(tmp_path / "x"))
    corpus = load_examples(TextDataConfig(name=f"hf:{tmp_path / 'x'}"))
    assert corpus.held_out == {1: "dev", 2: "test_file"}
    assert not any(text.startswith("unsupervised") for text in corpus.examples)
    assert any("not used: unsupervised" in note for note in corpus.notes)
    datasets.DatasetDict({"test": tables["test"]}).save_to_disk(str(tmp_path / "y"))
    corpus = load_examples(TextDataConfig(name=f"hf:{tmp_path / 'y'}"))
    assert "no split 'train': trained on is 'test'" in corpus.notes[0]


def test_damaged_parquet_files_are_named(tmp_path):
    path = _write(tmp_path, "x.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    for config in (_config(path), _config(tmp_path), TextDataConfig(name=f"hf:{path}")):
        with pytest.raises(ConfigError, match="x.parquet'.*(not a whole|cannot be loaded)"):
            load_examples(config)
    pyarrow.parquet.write_table(pyarrow.table({"title": ["a"], "text": [1]}), path)
    with pytest.raises(ConfigError, match="column 'text' contains int64, not texts"):
        load_examples(_config(path))
    with pytest.raises(ConfigError, match=r"columns of text are title \(not text: text\)"):
        load_examples(TextDataConfig(name=f"hf:{path}:nothing"))


def test_file_names_that_are_not_utf8_can_be_printed(tmp_path):
    for name in (b"train-\xe9.txt", b"test-\xe9.txt", b"\xe9.csv"):
        with open(os.path.join(os.fsencode(tmp_path), name), "w") as file:
            file.writelines(f"{name!r} {i}\n" for i in range(12))
    corpus = load_examples(_config(tmp_path))
    assert len(corpus.examples) == 24 and corpus.held_out == {1: "test_file"}
    assert "\\udce9.csv" in "".join(corpus.notes).encode().decode()


@settings(max_examples=15)
@given(
    st.sets(
        st.sampled_from(
            [
                "a.txt",
                "test.txt",
                "b.jsonl",
                "dev.jsonl",
                "c.csv",
                "d.csv.gz",
                "sub/e.txt",
                "sub/test.jsonl",
                "f.md",
                ".g.csv",
            ]
        ),
        min_size=1,
        max_size=5,
    )
)
def test_each_file_of_a_table_folder_is_read_or_named(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("tables")
    for name in names:
        _write(folder, name, [f"{name} {i}" for i in range(12)])
    try:
        corpus = load_examples(TextDataConfig(name=f"hf:{folder}"))
    except ConfigError as error:
        reasons = ("no files of these kinds", "files of one kind", "no training data")
        assert any(reason in str(error) for reason in reasons)
        return
    read = {text.rpartition(" ")[0] for text in corpus.examples}
    visible = {name for name in names if not name.startswith(".")}
    assert read <= visible and len({name.rpartition(".")[2] for name in read}) == 1
    assert all(name in " ".join(corpus.notes) for name in visible - read)
    trained = {text.rpartition(" ")[0] for text in split_corpus(corpus, 0)["train"]}
    assert not any(split_of(name) in ("validation", "test") for name in trained)


NAMES = st.tuples(
    st.sampled_from(["", "", "sub/", "test/", ".git/"]),
    st.sampled_from(["a", "b", "train", "dev", "test", "latest", ".x"]),
    st.sampled_from([".txt", ".txt", ".parquet", ".jsonl", ".csv", ".txt.gz", ".md", ".log"]),
).map("".join)


@settings(max_examples=25)
@given(st.sets(NAMES, min_size=1, max_size=8))
def test_each_file_is_read_or_named(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("mixed")
    for name in names:
        _write(folder, name, [f"{name} {i}" for i in range(12)])
    visible = {n for n in names if not any(x.startswith(".") for x in n.split("/"))}
    try:
        corpus = load_examples(_config(folder))
    except ConfigError as error:
        assert any(word in str(error) for word in ("no training data", "without shards"))
        assert all(name in str(error) for name in visible if split_of(name) != "train") or (
            "no training data" in str(error)
        )
        return
    read = {text.rpartition(" ")[0] for text in corpus.examples}
    notes = " ".join(corpus.notes)
    assert read <= visible
    assert all(name.endswith((".txt", ".parquet")) for name in read)
    assert all(name in notes for name in visible - read)
    trained = {text.rpartition(" ")[0] for text in split_corpus(corpus, 0)["train"]}
    assert not any(split_of(name) in ("validation", "test") for name in trained)
