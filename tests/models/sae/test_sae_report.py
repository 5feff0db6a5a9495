"""The report on dictionaries: search of settings, its page, and its runs on a tiny model."""

import dataclasses
import json
import runpy
import types

import numpy as np
import pytest

from flaxae.activations.token_rows import TokenRows
from flaxae.config import config_hash, copy_config, flags
from flaxae.data import sae_probes
from flaxae.errors import ConfigError
from flaxae.models.sae import (
    evaluation,
    probing,
    report_cost,
    report_measures,
    report_page,
    report_runs,
    report_search,
)
from flaxae.models.sae.config import SAEOptions
from flaxae.models.sae.report_runs import Report
from flaxae.sweep.record import add_to_record, read_record
from flaxae.training.load import load
from flaxae.training.result import Result
from tests.helpers import ROOT
from tests.models.causal_lm.tiny import base
from tests.models.sae.tiny import config_of

CONFIG = str(ROOT / "configs/sae/report.py")


def searched(l0_of, first=(0.5, 50.0), target=32.0):
    points = []
    while values := report_search.next_values(points, first, target):
        points += [(x, l0_of(x)) for x in values]
    return points, report_search.solution(points, target)


@pytest.mark.parametrize("scale", [1.0, 300.0, 2e5])
def test_the_search_finds_a_power_law_exactly(scale):
    """A power law is a line of logarithms, so that the interpolation is exact."""
    points, (value, slope) = searched(lambda x: 300 * (x * 100 / scale) ** -0.7)
    assert slope == pytest.approx(-0.7, abs=1e-3)
    assert 300 * (value * 100 / scale) ** -0.7 == pytest.approx(32, rel=2e-3)
    assert len(points) <= 12 and len({x for x, _ in points}) == len(points)
    wanted = report_search.corrected(value, 40.0, 32.0, -0.7)
    assert wanted == pytest.approx(value * (40 / 32) ** (1 / 0.7), rel=1e-3)


def test_a_search_that_does_not_reach_the_target_returns_the_nearest_value():
    points, (value, slope) = searched(lambda x: 500.0 if x < 1000 else 400.0)
    assert len(points) == 15 and value >= 1000 and slope == -1
    _, (value, _) = searched(lambda x: 0.0 if x > 6 else 80.0)  # no L0 has a logarithm at 0
    assert 3 < value <= 12


def test_a_pilot_that_diverged_is_a_point_without_l0():
    points, (value, slope) = searched(lambda x: None if x > 30 else 300 * x**-0.7)
    assert 300 * value**-0.7 == pytest.approx(32, rel=1e-2) and slope == pytest.approx(
        -0.7, abs=1e-2
    )
    # The target is beyond the values that work: the nearest one, and none is tried twice.
    points, (value, _) = searched(lambda x: None if x > 1 else 300.0)
    assert value <= 1 and len({x for x, _ in points}) == len(points) <= 9
    # All diverge: smaller values follow.
    found = report_search.next_values([(0.5, None), (5.0, None)], (0.5, 50.0), 32.0)
    assert found is not None and max(found) < 0.5


def rows_of(*entries):
    return [
        {
            "variant": variant,
            "seed": seed,
            "overrides": overrides,
            "data": "d",
            "tokens": 5,
            "numbers": {"l0": l0, "fvu": fvu, "never_active": 0.25},
        }
        for variant, seed, overrides, l0, fvu in entries
    ]


def test_a_row_of_the_page_has_the_seeds_of_the_last_setting():
    lam = "task.loss.sparsity"
    rows = rows_of(
        ("standard/pilot", 0, {lam: 1.0}, 99.0, 0.1),
        ("standard", 0, {lam: 1.0}, 50.0, 0.11),
        ("standard", 0, {lam: 2.0}, 33.0, 0.2),
        ("standard", 1, {lam: 1.0}, 51.0, 0.12),  # of an earlier setting
        ("standard", 1, {lam: 2.0}, 31.0, 0.3),
        ("gated", 0, {lam: 7.0}, 40.0, 0.4),
        ("pareto", 0, {"task.k": 8.0}, 8.0, 0.5),
        ("pareto", 0, {"task.k": 9.0}, None, None),
        ("gated/pilot", 0, {lam: 9.0}, None, None),
    )
    rows[1]["numbers"]["chosen_l0"] = 49.0
    text = report_page.page(rows, "T", ["standard", "gated", "topk"], [], [], (32.0, 2.0))
    line = next(x for x in text.splitlines() if x.startswith("| standard | 2 |"))
    assert "| 32.0 [" in line and "| 0.250 [" in line and "| 25.0 [" in line
    assert "| topk | 0 | not measured |" in text
    assert "Outside of the range of L0: gated (40.0)." in text
    assert "Settings were chosen by the L0 on other held-out texts" in text
    pilots = text[text.index("## Pilots") :]
    assert f"| standard | 5 | {lam} = 1 | 49.0 | 0.110 |" in pilots
    assert f"| gated/pilot | 5 | {lam} = 9 | diverged | |" in pilots
    assert "| standard/pilot |" in pilots and "pareto" not in pilots and "51.0" not in pilots


def test_the_cost_of_accelerators_is_a_count():
    cost = report_cost.dictionary(1000, d_in=10, d_sae=30)
    assert cost.flops == 1000 * 8 * 2 * 10 * 30
    chip = report_cost.Chip("c", 2, 1e6, 1e15)
    assert cost.seconds(chip) == pytest.approx(cost.flops / (2 * 1e6 * 0.4))
    # SmolLM2-135M: 3.54 M weights per layer; 2 FLOP each, and the attention.
    model = report_cost.language_model(1, layers=16, width=576, keys=192, hidden=1536, length=256)
    assert model.flops == 16 * (2 * 3_538_944 + 2 * 256 * 576)
    # No time is below the bound of the compiled programs.
    tokens = 2048 * 16384  # 16,384 steps, 2,048 passes
    lines = [line for line in report_cost.table(tokens).splitlines() if line.startswith("| ")]
    seconds = [float(line.split("|")[-2]) for line in lines[1:]]
    assert seconds == pytest.approx([15.6 / 0.7, 8.8 / 0.7], abs=0.1)


@pytest.mark.parametrize("preset", ["", "jumprelu", "layered,small", "fsq_8,quick", "vq_32"])
def test_presets(preset):
    config = flags.load_config(f"{CONFIG}:{preset}" if preset else CONFIG)
    flags.validate(config)
    if preset == "fsq_8,quick":
        assert config.task.tokens == 8 and config.task.layers == () and config.steps == 30
    if preset == "layered,small":
        assert config.task.layers[-1] == 15 and config.data.max_rows % 64 == 0


def test_every_preset_is_valid_and_others_are_errors():
    space = flags_space()
    names = (*space["SPARSE"], *space["OTHERS"], *space["CODES"])
    for name in names:
        for level in space["LEVELS"]:
            flags.validate(space["get_config"](f"{name},{level}"))
    with pytest.raises(ConfigError, match="no preset 'topk,large'"):
        space["get_config"]("topk,large")


def flags_space():
    return runpy.run_path(CONFIG)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """Return the names of the config with a tiny model, and two architectures."""
    folder = tmp_path_factory.mktemp("report")
    base(folder / "model")
    lines = [f"Line {i} says that {i * i} is the square of {i}." for i in range(80)]
    (folder / "text.txt").write_text("\n".join(lines))
    space = flags_space()
    overrides = {"log.progress": False, "eval.num_batches": 1}

    def get_config(preset):
        return config_of(folder, preset.partition(",")[0], **overrides)

    level = dataclasses.replace(
        space["LEVELS"]["quick"], steps=6, pilot=3, pareto=3, tries=2, facts=20, overrides={}
    )
    taps = [("resid_out", 0), ("resid_out", 1), ("mlp_in", 1)]
    names = {"SPARSE": ("topk", "standard"), "OTHERS": ("transcoder",), "CODES": ("fsq",)}
    names |= {"TAPS": [*taps, ("mlp_out", 1)]}
    sizes = {"LEVELS": {"quick": level}, "TARGET": 6.0, "TOLERANCE": 0.5, "RANGE": (0.5, 50.0)}
    return space | names | sizes | {"get_config": get_config}


def test_runs_after_one_another_share_model_and_texts(space, tmp_path):
    config = space["get_config"]("topk")
    one, two = (config.task.make(copy_config(config, {"data.state_cache": x})) for x in ("", "c"))
    assert one.source is two.source and one.splits is two.splits
    less = copy_config(config, {"data.max_rows": 3, "data.block_rows": 2})
    stream = less.task.make(less).data("train")
    np.testing.assert_array_equal(stream.rows.ids, one.data("train").rows.ids[:3])
    path = tmp_path / "text.txt"  # a file that changes is read again
    other = copy_config(config, {"data.path": str(path)})
    found = []
    for count in (60, 70):
        path.write_text("\n".join(f"This is line {i} of {count}." for i in range(count)))
        found.append(other.task.make(other).splits)
    assert len(found[1]["train"]) > len(found[0]["train"])


def test_data_sets_that_are_missing_are_an_error_before_the_first_run(space, tmp_path, monkeypatch):
    monkeypatch.setattr(sae_probes, "installed", lambda: False)
    report = Report(space, "quick", tmp_path, tmp_path / "rows.jsonl")
    monkeypatch.setattr(report, "fill", lambda: pytest.fail("states are computed"))
    with pytest.raises(ConfigError, match="pip install --no-deps sae-probes.*--no-sets"):
        report.run(["topk"])


def test_a_row_without_the_data_sets_is_measured_again(space, tmp_path, monkeypatch):
    record, config = tmp_path / "rows.jsonl", space["get_config"]("topk")
    numbers = {"l0": 6.0, "fvu": 0.5, "chosen_l0": 6.0, "cities_k16": 0.5}
    row = {"variant": "topk", "seed": 0, "level": "quick", "numbers": numbers, "overrides": {}}
    add_to_record(record, row | {"run": config_hash(config), "data": "d", "tokens": 5})
    calls = []

    def measure(folder, in_range):
        calls.append(folder)
        return numbers | {"sets_k16": 0.75}

    done = Result({}, {}, "already_done")
    monkeypatch.setattr(report_runs, "run", lambda *_: done)
    for sets, count in ((False, 0), (True, 1), (True, 1)):
        report = Report(space, "quick", tmp_path, record, sets=sets)
        report.evaluator = types.SimpleNamespace(measure=measure)
        assert report.one("topk", {}, 0)["l0"] == 6 and len(calls) == count
    assert read_record(record)[config_hash(config)]["numbers"]["sets_k16"] == 0.75


def test_shared_results_are_whole_files_of_one_dtype(tmp_path, monkeypatch):
    """The report is killed while it writes one, and starts again."""
    evaluator = report_measures.Evaluator(
        tmp_path, 2, (), (2, 2), ("resid_out",), ("dev", "test_line")
    )
    options, calls = SAEOptions(), []
    rows = TokenRows(*(np.ones((1, 3), t) for t in (np.int32, np.float32, bool)))
    source = types.SimpleNamespace(
        fingerprint="f", model=None, encode=lambda texts: [[1]] * len(texts)
    )
    task = types.SimpleNamespace(
        options=options, source=source, data=lambda split: types.SimpleNamespace(rows=rows)
    )

    def sums(*args):
        calls.append(args)
        return {"clean": (1.0, 2.0)}

    def killed(path, text, **_):
        path.write_bytes(text.encode()[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "splice_totals", sums)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pathlib.Path.write_text", killed)
        evaluator._baseline(task, None)
    assert (
        evaluator._baseline(task, None) == evaluator._baseline(task, None) == {"clean": [1.0, 2.0]}
    )
    assert len(calls) == 2 and calls[0][-1] == "test_line"
    options.model_dtype = "bfloat16"
    assert evaluator._baseline(task, None) and len(calls) == 3
    # The states of labelled texts too.
    read = []

    def collector(*_):
        return lambda ids: read.append(1) or {"resid_out": np.ones((1, len(ids), 1, 2))}

    monkeypatch.setattr(probing, "Collector", collector)
    for mark in ("f/float32", "f/float32", "f/bfloat16"):
        probing.collect(source, mark, ["resid_out"], [0], {"s": (["a"], [True], 1)}, tmp_path)
    assert len(read) == 2


@pytest.mark.slow
def test_a_report_is_resumable_and_made_from_rows(space, tmp_path, monkeypatch):
    record = tmp_path / "rows.jsonl"
    report = Report(space, "quick", tmp_path, record, sets=False)
    report.run(["topk"])
    rows = list(read_record(record).values())
    assert [row["variant"] for row in rows] == ["topk"] and rows[0]["tokens"] == 6 * 32
    numbers = rows[0]["numbers"]
    assert {"fvu", "l0", "ce_recovered", "cities_k16", "cities_states", "never_active"} <= set(
        numbers
    )
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {
        "resid_out.0",
        "resid_out.1",
        "mlp_in.1",
        "mlp_out.1",
    }
    # The shared passes give what the whole evaluation gives.
    loaded = load(tmp_path / rows[0]["run"])
    whole = evaluation.cross_entropy(loaded.task, evaluation.exported(loaded)[0], "test_line")
    held_out = evaluation.held_out(loaded, "test_line")
    assert numbers["fvu"] == pytest.approx(held_out["fvu"], rel=1e-4)
    assert numbers["chosen_l0"] == pytest.approx(evaluation.held_out(loaded)["l0"], rel=1e-4)
    assert numbers["ce_recovered"] == pytest.approx(whole["ce_recovered"], abs=1e-4)
    # Pilots as lanes, then the run at their weight; the second try has all measures.
    report.run(["standard", "transcoder", "fsq"])
    rows = list(read_record(record).values())
    pilots = [row for row in rows if row["variant"] == "standard/pilot"]
    tries = [row for row in rows if row["variant"] == "standard"]
    transcoder = next(row["numbers"] for row in rows if row["variant"] == "transcoder")
    assert transcoder["ce_ablated"] != numbers["ce_ablated"]  # zeros of another hook
    assert transcoder["ce_clean"] == numbers["ce_clean"]
    assert len(pilots) >= 3 and 1 <= len(tries) <= 2
    assert "ce_recovered" in tries[-1]["numbers"]
    assert not list((tmp_path / "lanes").iterdir())
    text = (tmp_path / "report.md").read_text()
    assert "| topk | 1 |" in text and "| fsq | 1 |" in text
    # A second call trains nothing.
    monkeypatch.setattr("flaxae.models.sae.report_runs.run", None)
    monkeypatch.setattr("flaxae.models.sae.report_runs.sweep", None)
    again = Report(space, "quick", tmp_path, record, sets=False)
    again.run(["topk", "standard", "transcoder", "fsq"])
    assert (tmp_path / "report.md").read_text() == text
    assert len(record.read_text().splitlines()) == len(rows)
    assert json.loads(record.read_text().splitlines()[0])["numbers"]["fvu"] == numbers["fvu"]
    assert np.isfinite(numbers["fvu"])
