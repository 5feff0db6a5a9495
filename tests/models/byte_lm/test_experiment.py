"""Tests of the experiments' runs, records and pages."""

import json

import numpy as np
import pytest

from flaxae.config import copy_config
from flaxae.data import byte_corpus
from flaxae.errors import ConfigError
from flaxae.models.byte_lm import automaton_report, experiment, straight_report
from flaxae.models.byte_lm.automaton import AutomatonConfig
from flaxae.models.byte_lm.automaton_report import (
    ROWS,
    automaton_size,
    bigram_entropy,
    equal_rnn,
    rnn,
    rnn_states,
)
from flaxae.models.byte_lm.experiment import Experiment, Found
from flaxae.models.byte_lm.grid import count_parameters
from flaxae.training.loop import run
from tests.models.byte_lm.helpers import build, size

CONFIG = """
from flaxae.config import Config, EvalConfig, LogConfig, MeshConfig, SaveConfig
from flaxae.models.byte_lm.automaton import AutomatonConfig
from flaxae.models.byte_lm.streams import ByteDataConfig

PRESETS = ("rows_1", "rows_2")

def get_config(preset):
    task = AutomatonConfig(rows=int(preset[5:]), width=3, inputs=4, update=8, eval_update=64)
    return Config(task, ByteDataConfig(batch_size=2), mesh=MeshConfig(fsdp=1), steps=4,
        log=LogConfig(tensorboard=False, progress=False), save=SaveConfig(every=4),
        eval=EvalConfig(splits=("dev", "test"), num_samples=0))

def quick(config):
    config.steps = config.save.every = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    words = np.random.default_rng(0).choice(["one", "three", "seven", "twelve"], 4000)
    (folder / "text").write_text(" ".join(words))
    (folder / "tiny.py").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def command(folder):
    made = Experiment("tests.tiny", str(folder / "tiny.py"), "A test.", automaton_report.page)
    fixed = [f"--path={folder / 'text'}", f"--workdir={folder / 'runs'}"]
    return lambda *args: experiment.main(made, ["tiny", *fixed, *args])


def rows_of(folder):
    return [json.loads(x) for x in (folder / "runs" / "runs.jsonl").read_text().splitlines()]


def test_lanes_have_the_numbers_of_single_runs(folder, command, capsys):
    assert command("--quick", "--only", "rows_2") == 0
    rows = rows_of(folder)
    assert [(row["variant"], row["seed"]) for row in rows] == [("rows_2", 0), ("rows_2", 1)]
    space: dict = {}
    exec(CONFIG, space)
    config = space["get_config"]("rows_2")
    config.data.path = str(folder / "text")
    space["quick"](config)
    single = run(copy_config(config, {"seed": 1}), folder / "single")
    for split in ("dev", "test"):
        found = rows[1]["numbers"][split]
        assert found == pytest.approx(single.metrics[f"{split}/bits_per_byte"], abs=1e-5)
        assert found != rows[0]["numbers"][split]
    assert rows[0]["numbers"]["parameters"] == size(build(config.task))
    page = (folder / "runs" / "report.md").read_text()
    assert "QUICK" in page and "AutomatonNN, 2 rows" in page and "Kneser-Ney" in page
    assert (folder / "runs" / "rows.png").exists()
    assert command("--quick", "--only", "rows_2") == 0
    assert rows_of(folder) == rows  # nothing is trained twice


def test_rows_of_other_data_are_refused(folder, command):
    row = {"run": "0", "variant": "rows_1", "seed": 0, "data": "another"}
    row["numbers"] = dict.fromkeys(experiment.COLUMNS, 1.0)
    (folder / "other.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match="numbers of data another"):
        command("--quick", f"--record={folder / 'other.jsonl'}")
    with pytest.raises(ConfigError, match="--only: unknown rows_3; there are rows_1, rows_2"):
        command("--only", "rows_3")


def made(folder, presets) -> Found:
    rows = {}
    for i, preset in enumerate(presets):
        numbers = {"parameters": 10, "layer_0/max_p": 0.5, "layer_0/rows_used": 1.0}
        rows[preset] = [
            {"seed": s, "numbers": numbers | {"dev": 3.0, "test": 3.0 - 0.1 * i - 0.01 * i * s}}
            for s in range(3)
        ]
    return Found(byte_corpus.read(str(folder / "text")), [], rows, "")


def test_a_page_has_a_line_per_preset(folder):
    found = made(folder, ["rows_1", "rows_256", equal_rnn(256), "hard_16"])
    page = automaton_report.page(found, folder)
    assert sum(line.startswith("| ") for line in page.splitlines()) == 4 + 5
    assert "| 256 | 10 | 3 | 3.000 [3.000, 3.000] | 2.890" in page and "| 75 | 2.780" in page
    found = made(folder, ["bits", "permuted"])
    page = straight_report.page(found, folder)
    assert "| bits of a random permutation of the values | 10 | 3 |" in page
    np.testing.assert_allclose(found.differences("permuted", "bits"), [-0.1, -0.11, -0.12])
    assert "| -0.110 [-0.135, -0.085] |" in page


def test_rnns_have_as_many_parameters_as_automata():
    for rows in ROWS:
        options = AutomatonConfig(rows=rows)
        expected = automaton_size(options)
        found = count_parameters(rnn(rnn_states(expected)))
        assert abs(found / expected - 1) <= 0.02
        assert expected == size(build(options))
    with pytest.raises(ConfigError, match="no tanh RNN has 1100 parameters within 2 %"):
        rnn_states(1100)


def test_bigram_entropy_of_a_text():
    assert bigram_entropy(np.frombuffer(b"abab" * 25, np.uint8)) == 0
    fair = np.tile(np.frombuffer(b"aabb", np.uint8), 1000)
    assert bigram_entropy(fair) == pytest.approx(1, abs=1e-3)
