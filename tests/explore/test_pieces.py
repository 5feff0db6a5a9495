"""Parts of the explorer: corpora, facts about a model, HTML, exported files, opening a model."""

import json
import xml.etree.ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from flaxae.errors import ConfigError
from flaxae.explore import corpus, export, honesty, render, texts
from flaxae.explore.cache import Cache
from flaxae.explore.geometry import clusters
from flaxae.explore.reduce import umap
from flaxae.measures.text import is_python
from flaxae.text_autoencoder import protocol


def test_diff_splits_texts_by_characters():
    assert texts.diff("abc", "axc") == [
        (True, "a", "a"),
        (False, "b", "x"),
        (True, "c", "c"),
    ]


def test_python_and_sentences_are_distinguished():
    assert is_python(["x = 1", "The end.", "y"]) and not is_python(["The end."] * 9)
    assert texts.kind("Is it so?", False) == "question" and texts.kind("So.", False) == "sentence"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"a\0b", "is a binary file"),
        (b"ok\n\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_an_error(tmp_path, content, message):
    path = tmp_path / "lines.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as e:
        corpus.read_corpus(path)
    assert "--corpus=" in str(e.value) and "data.path" not in str(e.value)


def test_labels_are_read_from_the_file(tmp_path):
    (tmp_path / "x.txt").write_text("pos\tgood\nneg\tbad\n")
    found = corpus.read_corpus(tmp_path / "x.txt", labels=True)
    assert (found.texts, found.labels) == (["good", "bad"], ["pos", "neg"])
    assert found.fingerprint != corpus.read_corpus(tmp_path / "x.txt").fingerprint
    (tmp_path / "x.txt").write_text("good\n")
    with pytest.raises(ConfigError, match="--labels"):
        corpus.read_corpus(tmp_path / "x.txt", labels=True)


def test_notes_on_a_corpus_name_the_explorers_own_options(tmp_path):
    (tmp_path / "x.txt").write_text("a\tb\nc\td\n")
    (tmp_path / "y.txt").write_text('{"text": "a"}\n')
    (tmp_path / "z.csv").write_text("text\na\n")
    notes = corpus.read_corpus(tmp_path).notes
    assert len(notes) == 3 and notes[1].endswith("lines of label<tab>text need --labels")
    assert not any("data." in note for note in notes)


def test_a_corpus_says_what_it_left_out(tmp_path):
    table = pyarrow.table({"text": ["a", None, "b"], "label": [1, 2, None]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "y.csv").write_text("text\nc\n")
    found = corpus.read_corpus(tmp_path, labels=True)
    assert (found.texts, found.labels) == (["a", "b"], ["1", ""])
    notes = " ".join(found.notes)
    for part in ("not used: y.csv", "1 records without text", "1 of 2 texts have no label"):
        assert part in notes
    with pytest.raises(ConfigError, match="--corpus=.*y.csv' is a table"):
        corpus.read_corpus(tmp_path / "y.csv")


def test_readable_texts_are_distinct_with_the_first_label_that_is_given():
    tokenizer = SimpleNamespace(encode=lambda texts: [list(text) for text in texts])
    model: Any = SimpleNamespace(tokenizer=tokenizer, max_length=4)
    labels = ["", "1", "2", "", "x", "3"]
    given = corpus.Corpus("made", ["a", "b", "a", "c", "long", "a"], labels)
    found = corpus.select_readable(given, model)
    assert (found.texts, found.labels) == (["a", "b", "c"], ["2", "1", ""])
    assert found.notes == ["1 text of more than 4 tokens left out"]


def test_clusters_are_numbered_by_size():
    places = np.repeat([[0.0, 9.0], [9.0, 0.0], [9.0, 9.0], [0.0, 0.0]], [2, 5, 3, 7], axis=0)
    found = clusters(places + np.random.default_rng(0).normal(0, 0.1, places.shape), 4)
    assert found.tolist() == [3] * 2 + [1] * 5 + [2] * 3 + [0] * 7


def test_a_cached_array_of_another_length_is_computed_again(tmp_path):
    cache = Cache(tmp_path / "new", "key")
    made = [cache.get("x", rows, lambda rows=rows: np.full((rows, 2), rows)) for rows in (3, 3, 4)]
    assert [len(x) for x in made] == [3, 3, 4] and not cache.note
    assert Cache(tmp_path / "new", "key").find("x", 4) is not None
    for name, rows, key in (("x", 3, "key"), ("y", 4, "key"), ("x", 4, "another model")):
        assert Cache(tmp_path / "new", key).find(name, rows) is None


def test_facts_come_from_the_files_of_the_run(tmp_path):
    none = {f.name: f.value for f in honesty.facts(honesty.read(tmp_path), 5)}
    assert (
        none["shuffled lines"]
        == none["exact match"]
        == none["valid samples"]
        == none["MMD²"]
        == "not evaluated"
    )
    assert (none["trained on"], none["time"], none["steps"]) == ("unknown", "unknown", "5")
    report = {
        "step": 4,
        "splits": {"dev": {"exact_match": 0.5}, "test_file": {"exact_match": 0.25}},
        "text_space": {"shuffled": {"exact_match_shuffled": 0.66}},
        "samples": {"validity": 0.125, "others": {"real_lines": {"validity": 0.5}}},
        "latent": {"mmd": 0.006, "null_p95": 0.0003},
    }
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text(json.dumps(report))
    (tmp_path / "config.json").write_text('{"data": {"name": "lines", "batch_size": 10}}')
    rows = [{"step": s, "split": "train", "time/steps_per_second": 0.5} for s in (100, 200)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    facts = {f.name: f.value for f in honesty.facts(honesty.read(tmp_path), 5)}
    assert facts == {
        "exact match": "25.0% of held-out files",
        "shuffled lines": "66.0% exact",
        "valid samples": "12.5% (real texts 50%)",
        "MMD²": "20 × null",
        "trained on": "lines",
        "steps": "5 (50 texts seen)",
        "time": "7 min",
        "evaluated at": "step 4",
    }
    # A run that was started again logs some steps twice; they took the time once.
    again = {150: 0.25, 200: 1.0, 300: 1.0}
    rows += [{"step": s, "split": "train", "time/steps_per_second": r} for s, r in again.items()]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    times = [f.value for f in honesty.facts(honesty.read(tmp_path), 5) if f.name == "time"]
    assert times == ["8 min"]
    (tmp_path / "report" / "report.json").write_text("{cut")
    assert honesty.facts(honesty.read(tmp_path), 5)[0].value == "not evaluated"


def test_texts_are_escaped_in_html():
    evil = "<script>alert('x')</script>&\""
    made = [
        render.text_cell(evil),
        render.big(evil),
        render.alert(evil),
        render.note(evil),
        render.diff([texts.DiffPart(False, evil, evil)]),
        render.table([evil], [[render.text_cell(evil)]]),
    ]
    for text in made:
        assert "<script" not in text and "&lt;script&gt;" in text


def test_exported_files_are_valid():
    table = export.Table(("n", "text"), [(1, "=cmd()"), (2, "$a$ <b>, 😀\x00\n")])
    lines = export.as_csv(table).splitlines()
    assert lines[:2] == ["n,text", "1,'=cmd()"]
    assert export.as_picture(table, "png", "t").startswith(b"\x89PNG")
    xml.etree.ElementTree.fromstring(export.as_picture(table, "svg", "<t>"))
    points = np.random.default_rng(0).normal(size=(6, 2))
    for groups in (["a", "b"] * 3, np.arange(6.0)):
        drawn = export.Table(("x",), [], (points, groups))
        assert len(export.as_picture(drawn, "png", "map")) > 1000


def test_umap_without_its_package_or_enough_texts_is_an_error(monkeypatch):
    import importlib.util

    with pytest.raises(ConfigError, match="more than 16 texts"):
        umap(np.zeros((5, 3), np.float32))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install umap-learn"):
        umap(np.zeros((50, 3), np.float32))


def write_config(folder, name):
    (folder / "config.json").write_text(json.dumps({"task": {"class": name}}))
    return folder


def test_opening_what_is_not_an_autoencoder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="config.json"):
        protocol.open_model(tmp_path)
    with pytest.raises(ConfigError, match="no such directory"):
        protocol.open_model(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="not part of flaxae"):
        protocol.open_model(write_config(tmp_path, "os:system"))
    for name in (
        "flaxae.training.optim:Config",
        "flaxae.nowhere.task:Config",
        "flaxae.config:Config",
    ):
        with pytest.raises(ConfigError, match="flaxae has no task config of that name"):
            protocol.open_model(write_config(tmp_path, name))
    with pytest.raises(ConfigError, match="FlowConfig, which is not a text autoencoder"):
        protocol.open_model(write_config(tmp_path, "flaxae.models.t5_vae.prior.task:FlowConfig"))


def test_the_explorer_imports_no_family():
    for path in Path(corpus.__file__).parent.rglob("*.py"):
        assert "flaxae.models" not in path.read_text(), path


def test_the_package_offers_no_name_that_a_module_would_replace():
    """Importing `flaxae.explore.x` sets the attribute `x` of the package to the module."""
    from flaxae import explore

    modules = {path.stem for path in Path(explore.__file__).parent.iterdir()}
    assert not modules & set(explore.__all__)
