"""Tests of Wikipedia's sentences: markup, dumps and shards."""

import bz2
import json
import sys
import types
from pathlib import Path

import datasets
import pytest

from flaxae.data.config import TextDataConfig
from flaxae.data.hub import load_examples
from flaxae.data.wikipedia import clean, shards
from flaxae.data.wikipedia.__main__ import main
from flaxae.data.wikipedia.build import build
from flaxae.data.wikipedia.shards import Plan
from flaxae.data.wikipedia.sources import Dump, Hub, Tfds, open_source
from flaxae.errors import ConfigError
from tests.data.wikipedia.dump import ALAN, dump


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "pages-articles.xml.bz2"
    path.write_bytes(bz2.compress(dump().encode()))
    return Dump((str(path),))


def _bytes(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def test_markup_becomes_prose():
    text = clean.plain_text(ALAN)
    assert "Alan Turing" in text and "English mathematician." in text
    gone = "Infobox book photo Category list table Life not [[ '''".split()
    assert not [x for x in gone if x in text]
    kept, counts = clean.article_sentences(ALAN, True, 3, 64)
    assert kept[0] == "Alan Turing (born) was an English mathematician."
    assert kept[-2:] == ["He ran very fast.", "He also broke codes with a machine there."]
    assert counts == {"kept": 4}


def test_a_dump_is_read_as_a_stream(source):
    articles = list(source.read(source.paths[0]))
    assert [title for title, _ in articles] == ["Alan Turing", *(f"Place {i}" for i in range(12))]
    assert articles[1][1] == "Place 0 is a small village & a port. No."
    assert articles[0][1] == ALAN
    assert len(list(Dump(source.paths, 3).read(source.paths[0]))) == 3


def test_a_dump_is_written_to_shards(source, tmp_path):
    plan = Plan(str(tmp_path / "out"), source, num_shards=3)
    manifest = build(plan, 1)
    names = [plan.name(i) for i in range(3)]
    assert sorted(_bytes(plan.out)) == ["manifest.json", *names]
    lines = [set((Path(plan.out) / name).read_text().splitlines()) for name in names]
    everything = set().union(*lines)
    assert len(everything) == sum(map(len, lines))
    assert {f"Place {i} is a small village & a port." for i in range(12)} < everything
    assert manifest == json.loads((Path(plan.out) / "manifest.json").read_text())
    totals = manifest["totals"]
    assert manifest["complete"] and totals["articles"] == 13
    assert totals["sentences"] == len(everything) and totals["short"] >= 12
    corpus = load_examples(TextDataConfig(path=plan.out))
    assert set(corpus.examples) == everything and corpus.file_names == names
    by_name = load_examples(TextDataConfig(name=f"recipe:wikipedia:{plan.out}"))
    assert by_name.examples == corpus.examples


def test_an_interrupted_run_continues(source, tmp_path, monkeypatch):
    whole = Plan(str(tmp_path / "whole"), source, num_shards=4)
    build(whole, 1)
    plan = Plan(str(tmp_path / "out"), source, num_shards=4)
    written = []
    write = shards.write_shard

    def stop_in_the_second(plan, number, articles):
        def broken():
            yield from articles
            raise KeyboardInterrupt

        written.append(number)
        return write(plan, number, broken() if len(written) == 2 else articles)

    monkeypatch.setattr(shards, "write_shard", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        build(plan, 1)
    assert (Path(plan.out) / plan.name(0)).exists()
    assert not list(Path(plan.out).glob("*.tmp")) and not (Path(plan.out) / plan.name(1)).exists()
    with pytest.raises(ConfigError, match="lacks 3 of 4 shards"):
        load_examples(TextDataConfig(path=plan.out))
    monkeypatch.setattr(Dump, "read", lambda *_: pytest.fail("the dump is read again"))
    build(plan, 1)
    assert written == [0, 1, 1, 2, 3]
    assert _bytes(plan.out) == _bytes(whole.out)
    build(plan, 1)
    assert len(written) == 5  # all shards are written


def test_a_shard_is_in_the_order_of_titles(tmp_path):
    rows = [{"title": f"T{i}", "text": f"This is a sentence {i}."} for i in (3, 0, 2, 1)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    plan = Plan(str(tmp_path / "out"), Hub(str(tmp_path / "saved")), num_shards=1)
    build(plan, 1)
    lines = Path(plan.path(plan.name(0))).read_text().splitlines()
    assert lines == [f"This is a sentence {i}." for i in range(4)]


def test_processes_and_parquet_give_the_same_sentences(source, tmp_path):
    one = Plan(str(tmp_path / "one"), source, num_shards=3, file_format="parquet")
    two = Plan(str(tmp_path / "two"), source, num_shards=3, file_format="parquet")
    build(one, 1)
    build(two, 2)
    assert _bytes(one.out) == _bytes(two.out)
    assert len(load_examples(TextDataConfig(path=one.out)).examples) > 12


def test_plain_articles_are_read_from_datasets_and_tfds(tmp_path, monkeypatch):
    rows = {
        "title": [f"T{i}" for i in range(5)],
        "text": [
            f"This is a sentence {i}.\n\nHeading\n\nAnd here {i} is one more." for i in range(5)
        ],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    hub = Hub(str(tmp_path / "saved"))
    assert hub.pieces(2) == [(0, 2), (2, 5)]
    assert list(hub.read((2, 5)))[0] == ("T2", rows["text"][2])
    build(Plan(str(tmp_path / "hub"), hub, num_shards=2), 1)

    def data_source(name, split):
        pairs = zip(rows["title"], rows["text"], strict=True)
        return [{"title": a.encode(), "text": b.encode()} for a, b in pairs]

    monkeypatch.setitem(
        sys.modules, "tensorflow_datasets", types.SimpleNamespace(data_source=data_source)
    )
    build(Plan(str(tmp_path / "tfds"), Tfds("wikipedia/20230601.en"), num_shards=2), 1)
    both = [_bytes(tmp_path / name) for name in ("hub", "tfds")]
    assert all(x.pop("manifest.json") for x in both) and both[0] == both[1]
    lines = load_examples(TextDataConfig(path=str(tmp_path / "hub"))).examples
    assert len(lines) == 10 and "And here 3 is one more." in lines


def test_the_command_writes_shards_and_reports_mistakes(source, tmp_path, capsys):
    out = str(tmp_path / "out")
    options = ["--source", source.paths[0], "--num-shards", "2", "--num-proc", "1"]
    assert main(["", out, *options]) == 0
    assert "2 shards: articles 13" in capsys.readouterr().out
    assert main(["", out, *options, "--max-words", "5"]) == 2
    assert "shards of another source or of other options" in capsys.readouterr().err
    assert main(["", str(tmp_path), *options]) == 2
    assert "contains files and no manifest.json" in capsys.readouterr().err
    assert main(["", out, "--source", str(tmp_path / "no.xml")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main(["", out, "--source", str(tmp_path / "no.doc")]) == 2
    assert "nor a dump" in capsys.readouterr().err
    assert main(["", str(tmp_path / "x"), *options, "--min-words", "99"]) == 2
    with pytest.raises(SystemExit):
        main(["", out, *options, "--streaming"])


@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_broken_dump_is_a_clear_error(tmp_path, part):
    raw = dump(200).encode()
    (tmp_path / "a.xml").write_bytes(raw[: int(part * len(raw))])
    plan = Plan(str(tmp_path / "out"), open_source(str(tmp_path / "a.xml")), num_shards=2)
    with pytest.raises(ConfigError, match=r"is not a whole XML dump \(after \d+ articles"):
        build(plan, 1)
    (tmp_path / "a.xml").unlink()
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(raw)[:-99])
    plan = Plan(str(tmp_path / "out2"), open_source(str(tmp_path)), num_shards=2)
    with pytest.raises(ConfigError, match="is not a whole XML dump"):
        build(plan, 1)


def test_missing_packages_are_clear_errors(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    with pytest.raises(ConfigError, match=r"pip install 'flaxae\[wikipedia\]'"):
        build(Plan(str(tmp_path / "out"), source), 1)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'flaxae\[tfds\]'"):
        Tfds("wikipedia").pieces(1)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    command = ["", str(tmp_path / "out"), "--source", source.paths[0], "--runner", "beam"]
    assert main(command) == 2


def test_an_unreachable_hub_is_a_clear_error(monkeypatch):
    def load(*_):
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigError, match="no route; without a network, give a local directory"):
        Hub("wikimedia/wikipedia", "20231101.en").table("", 1)
