"""The report on dictionaries: search of settings, its page, and its runs on a tiny model."""

import dataclasses
import json
import runpy

import numpy as np
import pytest

from flaxae.config import copy_config, flags
from flaxae.errors import ConfigError
from flaxae.models.sae import evaluation, report_cost, report_page, report_search
from flaxae.models.sae.report_runs import Report
from flaxae.sweep.record import read_record
from flaxae.training.load import load
from tests.helpers import ROOT
from tests.models.causal_lm.tiny import base
from tests.models.sae.test_sae_task import config_of

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


def rows_of(*entries):
    return [
        {
            "variant": variant,
            "seed": seed,
            "overrides": overrides,
            "data": "d",
            "tokens": 5,
            "numbers": {"l0": l0, "fvu": fvu, "dead": 0.25},
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
    )
    text = report_page.page(rows, "T", ["standard", "gated", "topk"], [], [], (32.0, 2.0))
    line = next(x for x in text.splitlines() if x.startswith("| standard | 2 |"))
    assert "| 32.0 [" in line and "| 0.250 [" in line and "| 25.0 [" in line
    assert "| topk | 0 | not measured |" in text
    assert "Outside of the range of L0: gated (40.0)." in text
    pilots = text[text.index("## Pilots") :]
    assert f"| standard | 5 | {lam} = 1 | 50.0 | 0.110 |" in pilots
    assert "| standard/pilot |" in pilots and "pareto" not in pilots and "51.0" not in pilots


def test_the_cost_of_accelerators_is_a_count():
    cost = report_cost.dictionary(1000, d_in=10, d_sae=30)
    assert cost.flops == 1000 * 8 * 2 * 10 * 30
    chip = report_cost.Chip("c", 2, 1e6, 1e15)
    assert cost.seconds(chip) == pytest.approx(cost.flops / (2 * 1e6 * 0.4))
    # SmolLM2-135M: 3.54 M weights per layer; 2 FLOP each, and the attention.
    model = report_cost.language_model(1, layers=16, width=576, keys=192, hidden=1536, length=256)
    assert model.flops == 16 * (2 * 3_538_944 + 2 * 256 * 576)
    table = report_cost.table(2048 * 16384)  # 16,384 steps, 2,048 passes
    assert "| top-k dictionary" in table and "15.6 s (states) and 8.8 s (dictionary)" in table


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


@pytest.mark.slow
def test_a_report_is_resumable_and_made_from_rows(space, tmp_path, monkeypatch):
    record = tmp_path / "rows.jsonl"
    report = Report(space, "quick", tmp_path, record)
    report.run(["topk"])
    rows = list(read_record(record).values())
    assert [row["variant"] for row in rows] == ["topk"] and rows[0]["tokens"] == 6 * 32
    numbers = rows[0]["numbers"]
    assert {"fvu", "l0", "ce_recovered", "cities_k16", "cities_states", "dead"} <= set(numbers)
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {
        "resid_out.0",
        "resid_out.1",
        "mlp_in.1",
        "mlp_out.1",
    }
    # The shared passes give what the whole evaluation gives.
    loaded = load(tmp_path / rows[0]["run"])
    whole = evaluation.cross_entropy(loaded.task, evaluation.exported(loaded)[0])
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
    Report(space, "quick", tmp_path, record).run(["topk", "standard", "transcoder", "fsq"])
    assert (tmp_path / "report.md").read_text() == text
    assert len(record.read_text().splitlines()) == len(rows)
    assert json.loads(record.read_text().splitlines()[0])["numbers"]["fvu"] == numbers["fvu"]
    assert np.isfinite(numbers["fvu"])
