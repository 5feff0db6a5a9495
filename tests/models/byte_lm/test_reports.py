"""Tests of the reports on StraightBytes and AutomatonNN, from runs to pages."""

import json
import runpy

import numpy as np
import pytest

from flaxae.config import Config, EvalConfig, LogConfig, MeshConfig, SaveConfig
from flaxae.data import byte_corpus
from flaxae.errors import ConfigError
from flaxae.measures.compressors import GZIP
from flaxae.models.byte_lm import automaton_report, baselines, straight_report
from flaxae.models.byte_lm.automaton import AutomatonConfig
from flaxae.models.byte_lm.automaton_report import (
    ROWS,
    Found,
    automaton_size,
    bigram_entropy,
    equal_rnn,
    rnn,
    rnn_states,
)
from flaxae.models.byte_lm.experiments import DEV, TEST, Experiment, Variant
from flaxae.models.byte_lm.grid import count_parameters
from flaxae.models.byte_lm.streams import ByteDataConfig
from flaxae.training.loop import run
from tests.models.byte_lm.helpers import size

AUTOMATON, STRAIGHT = "configs/byte_lm/automaton.py", "configs/byte_lm/straight.py"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text"
    words = np.random.default_rng(0).choice(["one", "three", "seven", "twelve"], 4000)
    path.write_text(" ".join(words))
    return path


@pytest.fixture
def corpus(text, monkeypatch):
    monkeypatch.setattr(baselines, "COMPRESSORS", (GZIP,))
    monkeypatch.setattr(baselines, "PRIMED", ())
    return byte_corpus.read(str(text))


@pytest.fixture(scope="module")
def base(text):
    task = AutomatonConfig(rows=2, width=3, inputs=4, update=8, eval_update=64)
    return Config(
        task,
        ByteDataConfig(batch_size=2, path=str(text)),
        mesh=MeshConfig(fsdp=1),
        log=LogConfig(tensorboard=False, progress=False),
        eval=EvalConfig(splits=("dev", "test"), num_samples=0, num_batches=1),
        save=SaveConfig(every=2),
        steps=2,
    )


def test_lanes_have_the_numbers_of_single_runs(base, tmp_path):
    experiment = Experiment(base, {"two": Variant({}, seeds=2)}, tmp_path / "runs.jsonl")
    assert experiment.train(tmp_path)
    rows = experiment.rows("two")
    assert [row["seed"] for row in rows] == [0, 1]
    single = run(experiment.config({}, 1), tmp_path / "single")
    for number in (DEV, TEST):
        found = rows[1]["numbers"][number]
        assert found == pytest.approx(single.metrics[number], abs=1e-5)
        assert found != rows[0]["numbers"][number]
    record = (tmp_path / "runs.jsonl").read_text()
    assert experiment.train(tmp_path) and (tmp_path / "runs.jsonl").read_text() == record


def test_a_record_of_other_data_is_refused(base, tmp_path):
    row = {
        "run": "0",
        "variant": "two",
        "seed": 0,
        "data": "another",
        "overrides": {},
        "numbers": {},
    }
    (tmp_path / "runs.jsonl").write_text(json.dumps(row) + "\n")
    experiment = Experiment(base, {"two": Variant({})}, tmp_path / "runs.jsonl")
    with pytest.raises(ConfigError, match="numbers of data another"):
        experiment.train(tmp_path)


def record(path, experiment: Experiment, names: list[str]) -> None:
    """Add rows of two seeds with numbers that grow by the variant and the seed."""
    rows = []
    for i, name in enumerate(names):
        for seed in (0, 1):
            variant = experiment.variants[name]
            overrides = variant.run(variant.overrides, seed)
            numbers = {DEV: 3.0, TEST: 3.0 - 0.1 * i - 0.01 * i * seed}
            numbers |= {"test/layer_0/max_p": 0.5, "test/layer_0/rows_used": 1.0}
            key = experiment.key(overrides)
            row = {"run": key, "variant": name, "seed": seed, "overrides": overrides}
            rows.append(json.dumps(row | {"numbers": numbers}) + "\n")
    with path.open("a") as file:
        file.writelines(rows)


def experiment_of(file: str, path, preset: str = "full") -> Experiment:
    space = runpy.run_path(file)
    return Experiment(space["get_config"](preset), space["variants"](preset), path)


def test_the_page_on_automata_has_rows_beside_rnns(corpus, tmp_path):
    path = tmp_path / "runs.jsonl"
    automata, rnns = (experiment_of(AUTOMATON, path, preset) for preset in ("full", "rnn"))
    record(path, automata, ["R = 1", "R = 256"])
    record(path, rnns, ["tanh RNN, 41 states", "tanh RNN, 75 states"])
    page = automaton_report.write(Found(automata, rnns), corpus, tmp_path, tmp_path)
    lines = [line for line in page.splitlines() if line.startswith("| R = ")]
    assert len(lines) == 2 and lines[1].startswith("| R = 256 | 49,664 | 2 | 3.000 [3.000, 3.000]")
    assert "| 75 | 49,981 | 2.895 [2.831, 2.959] |" in lines[1]
    assert "| **AutomatonNN, R = 256** | yes | 2.895 |" in page and "Kneser-Ney" in page
    assert (tmp_path / "rows.png").exists() and (tmp_path / "report.md").read_text() == page


def test_the_page_on_codings_has_paired_differences(corpus, tmp_path):
    path = tmp_path / "runs.jsonl"
    experiment = experiment_of(STRAIGHT, path)
    for variant in experiment.variants.values():
        object.__setattr__(variant, "seeds", 2)
    record(path, experiment, ["bits", "one-hot"])
    page = straight_report.write(experiment, corpus, tmp_path, tmp_path)
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert "| bits | 197,376 | 2 | 3.000 [3.000, 3.000] | 3.000 [3.000, 3.000] |  |" in lines
    assert any(
        "| one-hot | 4,260,608 | 2 |" in x and "| -0.105 [-0.169, -0.041] |" in x for x in lines
    )


def test_quick_variants_are_short():
    for file, presets in ((AUTOMATON, ("quick", "rnn_quick")), (STRAIGHT, ("quick",))):
        for preset in presets:
            space = runpy.run_path(file)
            config = space["get_config"](preset)
            config.validate()
            assert config.steps <= 64 and len(space["variants"](preset)) == 2
    assert size(runpy.run_path(STRAIGHT)["get_config"]("original").task) == 2_690_940


def test_rnns_have_as_many_parameters_as_automata():
    for rows in ROWS:
        options = AutomatonConfig(rows=rows)
        expected = automaton_size(options)
        found = count_parameters(rnn(equal_rnn(rows)))
        assert abs(found / expected - 1) <= 0.02
    assert size(AutomatonConfig(rows=4)) == automaton_size(AutomatonConfig(rows=4))
    with pytest.raises(ConfigError, match="no tanh RNN has 1100 parameters within 2 %"):
        rnn_states(1100)


def test_bigram_entropy_of_a_text():
    assert bigram_entropy(np.frombuffer(b"abab" * 25, np.uint8)) == 0
    fair = np.tile(np.frombuffer(b"aabb", np.uint8), 1000)
    assert bigram_entropy(fair) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("report", [automaton_report, straight_report])
def test_quick_reports_run_from_end_to_end(report, corpus, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(byte_corpus, "read", lambda path: corpus)
    monkeypatch.setattr(report, "user_path", lambda path: tmp_path)  # of measured baselines
    assert report.main(["report", "--quick", f"--workdir={tmp_path}"]) == 0
    page = (tmp_path / "report.md").read_text()
    assert capsys.readouterr().out.strip().endswith(page.strip()) and "QUICK" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    shown = ("R = 1", "R = 4") if report is automaton_report else ("bits", "one_hot")
    assert all(any(row.startswith(f"| {name} |") for row in rows) for name in shown)
    record = (tmp_path / "runs.jsonl").read_text()
    assert report.main(["report", "--quick", f"--workdir={tmp_path}"]) == 0
    assert (tmp_path / "runs.jsonl").read_text() == record
    with pytest.raises(ConfigError, match="--only: unknown R = 3"):
        report.main(["report", "--quick", f"--workdir={tmp_path}", "--only", "R = 3"])
