"""Data sets in the format of sae-probes: repeated and contradictory texts, copies, splits."""

import csv
import io

import numpy as np
import pyarrow as pa
import pytest

from flaxae.data import sae_probes
from flaxae.errors import ConfigError


def write(folder, name, rows, header=("prompt", "prompt_len", "target")):
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([header, *rows])
    with pa.output_stream(str(folder / f"{name}.csv.zst"), compression="zstd") as file:
        file.write(text.getvalue().encode())


QUESTIONS = [
    (f"Q. Is {i} even, or not?\nA. {answer}", 9, str(int((i % 2 == 0) == (answer == "yes"))))
    for i in range(60)
    for answer in ("yes", "no")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    rows = [*QUESTIONS, *QUESTIONS[:7], ('A "text", NA', 3, "0"), ('A "text", NA', 3, "1")]
    write(folder, "41_truthqa_tf", rows)
    write(folder, "5_short", [("null", 1, "b"), ("NA", 1, "a"), ("10", 1, "a")])
    for name in ("111_yelp_data", "112_amzn_rev", "100_news_fake"):
        write(folder, name, [("x", 1, str(i)) for i in range(3)])
    return folder


def test_repeated_texts_are_kept_once_and_contradictions_not_at_all(folder):
    data = sae_probes.read("41_truthqa_tf", folder)
    assert data.texts == tuple(prompt for prompt, _, _ in QUESTIONS)
    assert data.labels.tolist() == [target == "1" for _, _, target in QUESTIONS]
    assert data.groups[:2] == ("Q. Is 0 even, or not?",) * 2
    short = sae_probes.read("5_short", folder)  # neither numbers nor missing values
    assert short.texts == ("null", "NA", "10") and short.labels.tolist() == [True, False, False]
    assert short.groups == short.texts


def test_a_split_has_no_group_on_both_sides_and_is_balanced(folder):
    data = sae_probes.read("41_truthqa_tf", folder)
    train, test = sae_probes.split(data, 40, 20)
    assert len(set(train)) == 40 and len(set(test)) == 20
    assert data.labels[train].sum() == 20 and data.labels[test].sum() == 10
    assert not {data.groups[i] for i in train} & {data.groups[i] for i in test}
    # A larger part contains a smaller one; the order of the file does not matter.
    more, _ = sae_probes.split(data, 60, 20)
    assert set(train) <= set(more)
    order = np.random.default_rng(0).permutation(len(data.texts))
    texts, groups = (tuple(x[i] for i in order) for x in (data.texts, data.groups))
    other = sae_probes.LabelledTexts(data.name, texts, data.labels[order], groups)
    assert [texts[i] for i in sae_probes.split(other, 40, 20)[0]] == [data.texts[i] for i in train]
    with pytest.raises(ConfigError, match="41_truthqa_tf: 400 training .* there are"):
        sae_probes.split(data, 400, 20)


def test_copies_and_leaking_sets_are_left_out(folder):
    assert sae_probes.names(folder) == ["5_short", "41_truthqa_tf", "111_yelp_data"]
    with pytest.raises(ConfigError, match="the same file as another"):
        sae_probes.read("112_amzn_rev", folder)
    with pytest.raises(ConfigError, match="gives the label away"):
        sae_probes.read("100_news_fake", folder)


def test_mistakes_are_one_message(folder, monkeypatch):
    with pytest.raises(ConfigError, match="no such data set"):
        sae_probes.read("1_nothing", folder)
    with pytest.raises(ConfigError, match="111_yelp_data has 3 classes"):
        sae_probes.read("111_yelp_data", folder)
    write(folder.parent, "6_columns", [("a", "1")], header=("text", "target"))
    with pytest.raises(ConfigError, match="not a CSV with the columns"):
        sae_probes.read("6_columns", folder.parent)
    (folder.parent / "7_plain.csv.zst").write_text("prompt,target\na,1\n")
    with pytest.raises(ConfigError, match="compressed by zstd"):
        sae_probes.read("7_plain", folder.parent)
    monkeypatch.setattr(sae_probes.importlib.util, "find_spec", lambda _: None)
    assert not sae_probes.installed()
    with pytest.raises(ConfigError, match="pip install --no-deps sae-probes"):
        sae_probes.read("41_truthqa_tf")
