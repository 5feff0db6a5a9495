"""Tests of the grid's report: training of a program, its record, and the page."""

import json
import runpy

import numpy as np
import pytest

import flaxae
from flaxae.config import copy_config
from flaxae.data import byte_corpus
from flaxae.errors import ConfigError
from flaxae.models.byte_lm import grid_train
from flaxae.models.byte_lm.baselines import Row
from flaxae.models.byte_lm.grid_cells import fraction, quick, small
from flaxae.models.byte_lm.grid_plan import Numbers, Plan
from flaxae.models.byte_lm.grid_report import comparable, main, page, write
from flaxae.models.byte_lm.grid_train import (
    EQUAL,
    NUMBERS,
    ORIGINAL,
    RATE,
    WINDOW,
    measure_rates,
    original_runs,
    rated,
    require_same,
    stopping,
    train_program,
)
from flaxae.sweep import group_by_shape
from flaxae.sweep.workers import Exit
from flaxae.training.layout import init_model
from flaxae.tree import lookup
from tests.models.byte_lm.test_grid_claims import made_up

SPACE = runpy.run_path("configs/byte_lm/grid.py")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text"
    words = np.random.default_rng(0).choice(["one", "three", "seven", "twelve"], 20_000)
    path.write_text(" ".join(words))
    return path


def test_runs_of_the_original_schedule_have_updates_of_k_bytes():
    base = SPACE["get_config"]()
    runs = original_runs(base, fraction())
    for run in runs:
        config = copy_config(base, run.overrides)
        config.validate()
        config.task.validate()
        assert config.task.update == config.task.bptt == run.cell.bptt
        assert config.steps * config.task.update * config.data.batch_size == 2**18
    assert len(group_by_shape(base, [run.overrides for run in runs])) == 36
    stop = stopping(base, fraction()[2])
    stop.task.validate()
    assert stop.task.bptt == 4 and stop.task.update == 16


def test_presets_are_valid_configs():
    for preset in ("", "all", "quick", "accelerator"):
        config = SPACE["get_config"](preset)
        config.validate()
        assert len(SPACE["get_runs"](preset)) == len(SPACE["get_cells"](preset))
    with pytest.raises(ConfigError, match="no preset 'x': there are all, accelerator, quick"):
        SPACE["get_config"]("x")


@pytest.fixture(scope="module")
def plan():
    return Plan(SPACE, "")


def row_of(plan, variant, cell, numbers):
    row = {"run": plan.key(variant, cell), "variant": variant, "seed": 0, "cell": str(cell)}
    return json.dumps({**row, "data": "some data", "numbers": numbers})


@pytest.fixture(scope="module")
def record(plan, tmp_path_factory):
    """Return a record of made-up numbers of the fraction."""
    rows = []
    for cell in fraction():
        bits = made_up(cell)
        curve = [(1000 * 2**i, bits + 0.1 * (4 - i)) for i in range(5)]
        for variant in (EQUAL, ORIGINAL):
            numbers = {"bits_per_byte": bits, "curve": curve, "max_state": 2.0}
            rows.append(row_of(plan, variant, cell, numbers))
    for cell in {rated(cell) for cell in fraction()}:
        rows.append(row_of(plan, RATE, cell, {"bytes_per_second": 1000 / cell.bptt}))
    for cell in plan.windows:
        numbers = {"bits_per_byte": made_up(cell) - 0.05 * cell.bptt}
        rows.append(row_of(plan, WINDOW, cell, numbers))
    path = tmp_path_factory.mktemp("record") / "runs.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_page_and_figures_are_made_from_rows(record, plan, text, tmp_path):
    found = Numbers.read(record, plan)
    assert len(found.bits[EQUAL]) == len(found.bits[ORIGINAL]) == 72
    corpus = byte_corpus.read(str(text))
    others = [Row("xz -9e", False, 1.7, 0.0), Row("gzip -9", False, 2.0, 0.0)]
    write(found, plan, corpus, others, tmp_path)
    written = (tmp_path / "report.md").read_text()
    assert written.startswith(page(found, plan, corpus, others, ""))
    for name in ("grid_parameters", "grid_states", "grid_curves"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert f"![{name}]({name}.png)" in written
    assert "| equal bytes, equal updates | 24 | -0.200 [" in written
    assert "| **lost** |" in written and "| **confirmed** |" in written
    # k = 1 is four times as fast as k = 4, which is read off two points of the curve earlier
    assert "| equal time, equal updates (dev) | 24 | -0.1" in written
    assert written.count("reservoir") >= 12 and "QUICK" not in written
    assert "first 3,072 bytes of each of 32 parts" in written
    assert "bits per byte, 983 kB | update every k, 262 kB |" in written
    # Windows of k = 4 were made better by .2 bits per byte, those of k = 2 by .1.
    assert "k = 2: -0.100 [-0.100, -0.100] over 4 cells; k = 4: -0.200" in written


def test_a_quick_page_names_its_own_sizes(text, tmp_path):
    short = Plan(SPACE, "", quick=True)
    write(
        Numbers.read(tmp_path / "none", short),
        short,
        byte_corpus.read(str(text)),
        [],
        tmp_path,
        False,
    )
    written = (tmp_path / "report.md").read_text()
    assert "QUICK" in written and "0 cells" in written
    assert "first 128 bytes of each of 32 parts" in written
    assert "bits per byte, 65 kB | update every k, 16 kB |" in written


def test_small_cells_are_trained_beside_the_fraction():
    more = Plan(SPACE, "", more=small())
    assert more.cells[:72] == fraction() and more.paired == fraction()
    assert len(more.cells) == len({*more.cells}) == 72 + 144 - 18
    assert len(more.windows) == len(Plan(SPACE, "").windows)


def test_rows_of_other_settings_are_left_out(record, plan, tmp_path):
    other = Plan(
        {**SPACE, "get_config": lambda preset: copy_config(plan.base, {"optim.lr": 1e-2})}, ""
    )
    cell = fraction()[0]
    numbers = {"bits_per_byte": 7.0, "curve": [], "max_state": 99.0}
    rows = [row_of(other, variant, cell, numbers) for variant in (EQUAL, ORIGINAL)]
    rows.append(row_of(other, RATE, rated(cell), {"bytes_per_second": 1e9}))
    rows.append(row_of(other, EQUAL, fraction()[1], {"bits_per_byte": None, "curve": []}))
    path = tmp_path / "runs.jsonl"
    path.write_text(record.read_text() + "\n".join(rows) + "\n")
    assert Numbers.read(path, plan) == Numbers.read(record, plan)
    found = Numbers.read(path, other)
    assert found.bits == {EQUAL: {cell: 7.0}, ORIGINAL: {cell: 7.0}, WINDOW: {}}


def test_cells_that_diverged_are_named_by_their_schedule(record, plan, text, tmp_path):
    row = row_of(plan, ORIGINAL, fraction()[3], {"bits_per_byte": None})
    worse = {"bits_per_byte": 6270.97, "curve": [(1000, 9.0)], "max_state": 6e4}
    added = f"{row}\n{row_of(plan, EQUAL, fraction()[4], worse)}"
    (tmp_path / "runs.jsonl").write_text(f"{record.read_text()}{added}\n")
    found = Numbers.read(tmp_path / "runs.jsonl", plan)
    cells = fraction()[3:5]
    assert found.diverged == {EQUAL: {cells[1]: 6270.97}, ORIGINAL: {cells[0]: None}, WINDOW: {}}
    assert len(found.bits[EQUAL]) == len(found.curves) == len(found.bits[ORIGINAL]) == 71
    written = page(found, plan, byte_corpus.read(str(text)), [], "")
    assert "72 cells; bits per byte" in written
    assert f"Diverged, an update every k bytes: {cells[0]} (not finite)." in written
    assert f"equal updates: {cells[1]} (6,271.0 bits, states up to 6e+04)." in written
    assert "| equal bytes, equal updates | 23 | -0.200 [" in written
    assert "over 24 triples" in written
    # Its triple is not trained with an update every k bytes.
    assert comparable(fraction(), found) == fraction()[:3] + fraction()[6:]
    with pytest.raises(ConfigError, match="has numbers of data some data, not of other"):
        require_same([json.loads(row)], "other", record)


def test_the_report_finds_the_grid_in_any_folder(record, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flaxae.models.byte_lm.grid_report.measure", lambda *args: 75)
    monkeypatch.setattr("flaxae.models.byte_lm.baselines.measure", lambda *args, **kwargs: [])
    assert main(["report", "--workdir=w", f"--path={text}", "--quick"]) == 75


@pytest.mark.parametrize("options", [[], ["--window"], ["--reference", "--window"]])
def test_options_choose_the_variants(options, text, tmp_path, monkeypatch, capsys):
    trained = []

    def fake(base, runs, *args):
        trained.extend((run.variant, run.cell.bptt == 16) for run in runs)

    monkeypatch.setattr("flaxae.models.byte_lm.grid_report.train", fake)
    monkeypatch.setattr("flaxae.models.byte_lm.grid_report.measure_rates", lambda *args: None)
    monkeypatch.setattr("flaxae.models.byte_lm.baselines.measure", lambda *args, **kwargs: [])
    monkeypatch.setattr("flaxae.models.byte_lm.grid_report.write", lambda *args: None)
    (tmp_path / "report.md").write_text("written")
    assert main(["report", f"--workdir={tmp_path}", f"--path={text}", *options]) == 0
    variants = {variant for variant, _ in trained}
    assert variants == {EQUAL, ORIGINAL} | ({WINDOW} if "--window" in options else set())
    assert any(whole for _, whole in trained) == ("--reference" in options)


def test_each_program_that_stops_at_k_is_timed_once(plan, text, tmp_path, monkeypatch):
    timed = []

    class Fake:
        def __init__(self, config):
            self.k = config.task.bptt
            timed.append((config.task.states, config.task.layers, self.k))

        def bytes_per_second(self, seconds):
            assert seconds == pytest.approx(0.1)
            return 1000.0 / self.k

    def in_turn(calls, jobs, on_exit):
        for i, call in enumerate(calls):
            on_exit(Exit(i, call.function(*call.args), 0.0))

    monkeypatch.setattr(grid_train, "Timed", Fake)
    monkeypatch.setattr(grid_train, "run_all", in_turn)
    base = copy_config(plan.base, {"data.path": str(text)})
    own, record = Plan(SPACE, str(text)), tmp_path / "runs.jsonl"
    cells = fraction()[:12]  # two programs, each with and without same step and output gate
    for _ in range(2):  # the second time all are in the record
        assert measure_rates(base, cells, record, tmp_path, 0.3) is None
    assert timed == [
        (cell.states, cell.layers, cell.bptt) for cell in map(rated, fraction()[:3])
    ] + [(cell.states, cell.layers, cell.bptt) for cell in map(rated, fraction()[6:9])]
    assert Numbers.read(record, own).rates == {rated(cell): 1000 / cell.bptt for cell in cells}


@pytest.mark.slow
def test_a_lane_of_a_program_is_the_single_run(text, tmp_path):
    base = SPACE["get_config"]("quick")
    base.data.path = str(text)
    base.optim.ema = 0.0
    base.steps = base.save.every = 64
    base.eval.every = base.log.every = 32
    cells = [cell for cell in quick() if cell.hidden and cell.bptt < 4][:3]
    lanes = [cell.overrides for cell in cells]
    assert train_program(base, lanes, tmp_path / "lanes", 0) == 0
    together = json.loads((tmp_path / "lanes" / NUMBERS).read_text())
    assert train_program(base, lanes[1:2], tmp_path / "single", 0) == 0
    (single,) = json.loads((tmp_path / "single" / NUMBERS).read_text())
    found = together[1]
    assert found["bits_per_byte"] == pytest.approx(single["bits_per_byte"], abs=2e-5)
    np.testing.assert_allclose(found["curve"], single["curve"], atol=2e-5)
    assert [x for x, _ in found["curve"]] == [32 * 256, 64 * 256]
    assert together[0] != together[1]
    assert cells[0].corner == "reservoir"
    loaded = flaxae.load(tmp_path / "lanes" / "lanes" / "00")
    start = init_model(loaded.task, loaded.config.seed, loaded.config.frozen_seed)["params"]
    for name in ("inputs", "recurrent", "outputs"):
        now = getattr(loaded.model.layers[0], name).kernel[...]
        same = np.array_equal(now, lookup(start, ("layers", 0, name, "kernel")))
        assert same == (name != "outputs")
    # A finished program writes the same numbers again.
    (tmp_path / "lanes" / NUMBERS).unlink()
    assert train_program(base, lanes, tmp_path / "lanes", 0) == 0
    assert json.loads((tmp_path / "lanes" / NUMBERS).read_text()) == together
