"""Tests of the splits of bytes, and of their manifest."""

import hashlib
import platform

import numpy as np
import pytest

from flaxae.data import byte_corpus
from flaxae.data.byte_corpus import SPLITS, read, split_of, top_name
from flaxae.data.byte_manifest import Manifest
from flaxae.errors import ConfigError


def text(seed: int, size: int = 400) -> bytes:
    """Return random lower-case letters, which share no long strings with those of other seeds."""
    return np.random.default_rng(seed).integers(97, 123, size).astype(np.uint8).tobytes()


def names(split: str, count: int) -> list[str]:
    return [x for x in (f"name{i}" for i in range(1000)) if split_of(x) == split][:count]


@pytest.fixture
def folder(tmp_path):
    """Return a folder whose entries fall into all splits."""
    for seed, name in enumerate(names("train", 4) + names("dev", 2) + names("test", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one").write_bytes(text(seed))
        (tmp_path / name / "two").write_bytes(text(100 + seed))
    return tmp_path


def test_split_is_the_hash_of_the_name_modulo_20():
    counts = {split: sum(split_of(f"x{i}") == split for i in range(4000)) for split in SPLITS}
    assert 3100 < counts["train"] < 3300 and 320 < counts["dev"] < 480
    assert split_of("os.py") == "test" and split_of("socket.py") == "dev"
    assert int(hashlib.sha256(b"os.py").hexdigest(), 16) % 20 in (2, 3)
    assert top_name("json/decoder.py") == "json" and top_name("os.py") == "os.py"


def test_folder_is_split_by_top_level_name(folder):
    corpus = read(str(folder))
    assert [corpus.manifest.count(split) for split in SPLITS] == [8, 4, 4]
    for split in SPLITS:
        paths = [f.path for f in corpus.manifest.files if f.split == split]
        assert {split_of(top_name(path)) for path in paths} == {split}
        assert paths == sorted(paths, key=lambda x: hashlib.sha256(x.encode()).digest())
        joined = b"\0".join((folder / path).read_bytes() for path in paths)
        assert corpus.splits[split].tobytes() == joined
        assert corpus.manifest.totals[split] == (len(paths), len(joined))
    assert corpus.splits["train"].dtype == np.uint8
    assert corpus.manifest.shared == {"dev": 0, "test": 0}


def test_copies_empty_binary_and_hidden_files_are_left_out(folder):
    train, dev = names("train", 1)[0], names("dev", 1)[0]
    before = read(str(folder))
    (folder / dev / "copy").write_bytes((folder / train / "one").read_bytes())
    (folder / dev / "empty").touch()
    (folder / dev / "binary").write_bytes(b"PNG\0...")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    after = read(str(folder))
    assert after.manifest.fingerprint == before.manifest.fingerprint
    (copy,) = (f for f in after.manifest.files if f.path == f"{dev}/copy")
    assert copy.split == "" and copy.reason == f"identical to {train}/one"
    assert "2 of 19 files are empty or binary" in after.manifest.summary()


def test_held_out_file_that_resembles_training_files_is_left_out(folder):
    train, test = names("train", 1)[0], names("test", 1)[0]
    known = (folder / train / "one").read_bytes()
    (folder / test / "one").write_bytes(text(7, 310) + known[:90])  # 22.5 %
    (folder / test / "two").write_bytes(text(8, 325) + known[:75])  # 18.75 %
    manifest = read(str(folder)).manifest
    found = {f.path: f for f in manifest.files if f.path.startswith(f"{test}/")}
    one, two = found[f"{test}/one"], found[f"{test}/two"]
    assert one.split == "" and one.shared == 0.225 and "22% of its bytes" in one.reason
    assert two.split == "test" and two.shared == 0.1875
    assert manifest.shared["test"] == 75 / manifest.sizes["test"]
    assert "training strings of 50 bytes" in manifest.summary()


def test_large_entry_is_always_training(folder, monkeypatch):
    dev = names("dev", 1)[0]
    (folder / dev / "one").write_bytes(text(9, 5000))
    assert {f.split for f in read(str(folder)).manifest.files if f.path.startswith(dev)} == {"dev"}
    monkeypatch.setattr(byte_corpus, "LARGE", 2000)
    found = read(str(folder)).manifest.files
    assert {f.split for f in found if f.path.startswith(dev)} == {"train"}


def test_file_and_folder_of_few_names_are_split_by_position(tmp_path):
    content = text(0, 1000)
    (tmp_path / "book").write_bytes(content)
    one = read(str(tmp_path / "book"))
    whole = read(str(tmp_path))
    for corpus in (one, whole):
        assert [len(corpus.splits[x]) for x in SPLITS] == [900, 50, 50]
        assert b"".join(corpus.splits[x].tobytes() for x in SPLITS) == content
        assert [corpus.manifest.count(x) for x in SPLITS] == [1, 1, 1]
    assert "too few to hold out whole ones" in whole.manifest.summary()
    assert not one.manifest.notes
    (tmp_path / "enwik8").write_bytes(content)
    assert "1,000 bytes, not 100,000,000" in read(str(tmp_path / "enwik8")).manifest.notes[0]


def test_manifest_is_saved_and_compared(folder, tmp_path):
    corpus, path = read(str(folder)), tmp_path / "manifest.json"
    corpus.manifest.save(path)
    loaded = Manifest.load(path)
    path.unlink()
    assert loaded == corpus.manifest
    read(str(folder)).manifest.require_same(loaded)
    changed = folder / names("train", 1)[0] / "two"
    changed.write_bytes(text(77))
    with pytest.raises(ConfigError, match=r"1 files differ.*two' is different.*begin a new run"):
        read(str(folder)).manifest.require_same(loaded)
    changed.unlink()
    with pytest.raises(ConfigError, match="two' is missing"):
        read(str(folder)).manifest.require_same(loaded)
    loaded.python = "cpython 3.9.1"
    with pytest.raises(ConfigError, match="Python is not used, it was cpython 3.9.1"):
        corpus.manifest.require_same(loaded)


def test_damaged_manifest_is_an_error(folder, tmp_path):
    path = tmp_path / "manifest.json"
    with pytest.raises(ConfigError, match="not a readable manifest"):
        Manifest.load(path)
    read(str(folder)).manifest.save(path)
    good = path.read_text()
    for bad in (good[:100], "[]", good.replace('"split": "dev"', '"split": "test"', 1)):
        path.write_text(bad)
        with pytest.raises(ConfigError, match="not a readable manifest|was changed"):
            Manifest.load(path)


def test_bad_paths_are_one_clear_error_each(tmp_path):
    with pytest.raises(ConfigError, match="does not exist: give a text file"):
        read(str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="contains no text: 0 files"):
        read(str(tmp_path))
    (tmp_path / "a").touch()
    with pytest.raises(ConfigError, match="contains no text: 1 files"):
        read(str(tmp_path))
    with pytest.raises(ConfigError, match="a' is empty"):
        read(str(tmp_path / "a"))
    (tmp_path / "a").write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes, too few for three splits"):
        read(str(tmp_path / "a"))
    (tmp_path / "a").write_bytes(b"\x1f\x8b\x08" + text(0))
    with pytest.raises(ConfigError, match="is compressed"):
        read(str(tmp_path / "a"))
    (tmp_path / "a").write_bytes(text(0))
    with pytest.raises(ConfigError, match="360 bytes, fewer than B . U = 1,000"):
        read(str(tmp_path / "a")).require_length("train", 1000, "B * U")


def test_library_without_sources_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(byte_corpus.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(ConfigError, match="no source files of its library"):
        byte_corpus._library.__wrapped__()


@pytest.mark.slow
def test_library_is_split_by_modules_and_packages():
    corpus = read()
    manifest = corpus.manifest
    assert manifest.python == f"cpython {platform.python_version()}"
    folders = {part for f in manifest.files for part in f.path.split("/")[:-1]}
    assert not folders & byte_corpus.SKIPPED
    assert max(manifest.shared.values()) < 0.2
    assert read() is corpus
    tops = [{top_name(f.path) for f in manifest.files if f.split == split} for split in SPLITS]
    assert not (tops[0] & tops[1] or tops[0] & tops[2] or tops[1] & tops[2])
    if platform.python_version() == "3.11.7":
        expected = [(743, 11_432_917), (26, 510_778), (21, 594_632)]
        assert [manifest.totals[split] for split in SPLITS] == expected
