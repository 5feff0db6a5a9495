"""The corpus `sentences`: repeated, contradictory, contained and unusable texts, splits, labels."""

import pyarrow as pa
import pytest

from flaxae.data import hub, labelled, sae_probes
from flaxae.data.config import TextDataConfig
from flaxae.data.text import split_corpus
from flaxae.errors import ConfigError

REVIEWS = [(f"the film number {i} is what I like to see ,", str(i % 2)) for i in range(400)]
SST2 = [
    *REVIEWS,
    *REVIEWS[:5],  # repeated
    ("The film , number 7 is what I like to see", "1"),  # the same but for spelling
    ("is what I like to", "1"),  # part of others
    ("too few words", "1"),
    ("two labels are too many", "0"),
    ("two labels are too many", "1"),
    ("Two labels, spelled in another way", "0"),
    ("two labels spelled in another way .", "1"),
    ("look at this www.example.org now", "1"),
    ("  white space around a text ", "0"),
]
NEWS = [("a game of four quarters", "Sport"), ("a class that is unknown", "Weather")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for name, source in labelled.PARTS.items():
        rows = {"sst2": SST2, "news": NEWS, "rotten_tomatoes": REVIEWS[:3]}.get(name, [])
        table = "".join(f'"{text}","{target}"\n' for text, target in rows)
        with pa.output_stream(str(folder / f"{source.file}.csv.zst"), compression="zstd") as file:
            file.write(f"prompt,target\n{table}".encode())
    return folder


def test_texts_are_counted_once_with_their_first_label(folder):
    corpus = labelled.corpus(labels=True, directory=folder)
    assert len(corpus.examples) == 402 and len(set(corpus.examples)) == 402
    assert corpus.labels["the film number 7 is what I like to see ,"] == "sst2/positive"
    assert corpus.labels["white space around a text"] == "sst2/negative"
    assert corpus.labels["a game of four quarters"] == "news/sport"
    assert not labelled.corpus(directory=folder).labels
    entries = {entry["part"]: entry for entry in labelled.manifest(folder)}
    sst2 = entries["sst2"]
    assert (sst2["rows"], sst2["distinct"], sst2["kept"]) == (len(SST2), 404, 401)
    assert sst2["classes"] == {"negative": 201, "positive": 200}
    assert sst2["train"] + sst2["dev"] + sst2["test_file"] == 401
    assert entries["rotten_tomatoes"]["kept"] == 0 and entries["news"]["distinct"] == 1


def test_parts_are_chosen_by_name(folder):
    corpus = labelled.corpus(labels=True, directory=folder, parts=("news",))
    assert list(corpus.labels.values()) == ["news/sport"]
    with pytest.raises(ConfigError, match="no part films; give sst2, rotten_tomatoes"):
        hub.load_examples(TextDataConfig(name="sentences:films,news"))


def test_no_held_out_text_begins_like_a_training_text(folder):
    corpus = labelled.corpus(directory=folder)
    splits = split_corpus(corpus, 0)
    held_out = {t for t in corpus.examples if labelled.split_of(t) == "test_file"}
    assert set(splits["test_file"]) == held_out and 5 <= len(held_out) <= 40
    assert sorted(t for lines in splits.values() for t in lines) == sorted(corpus.examples)
    start = "I usually put eggs in the salad today because"
    assert len({labelled.split_of(f"{start} {word}") for word in ("he", "she", "we", "it")}) == 1


def test_contained_texts_are_found_at_any_place():
    texts = ["abcdefghijklmnopqrst", "ghijklmnopqr", "abcdefghijklm", "opqrst", "bcdefghijklx"]
    assert labelled.contained(texts) == {"ghijklmnopqr", "abcdefghijklm"}


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(sae_probes.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install --no-deps sae-probes"):
        hub.load_examples(TextDataConfig(name="sentences"))


@pytest.mark.slow
@pytest.mark.skipif(not sae_probes.installed(), reason="sae-probes is not installed")
def test_counts_of_the_real_package():
    corpus = labelled.corpus(labels=True)
    assert len(corpus.examples) == 35_432
    letters = [labelled.squashed(text) for text in corpus.examples]
    assert len(set(letters)) == 35_432 and not labelled.contained(letters)
    splits = split_corpus(corpus, 0)
    films = [x for x in splits["test_file"] if corpus.labels[x].startswith("rotten")]
    assert len(films) > 150
