"""The report on uniform tokens: record, table, verdicts and figures; training is a stub."""

import json
import math

import pytest

from configs.funnel_ae import report as report_config
from flaxae.config import config_hash
from flaxae.errors import ConfigError
from flaxae.models.funnel_ae import report, report_claims, report_figures
from flaxae.models.funnel_ae.report_claims import Claim
from flaxae.models.funnel_ae.report_measures import _open
from flaxae.sweep.record import read_record
from tests.helpers import ROOT
from tests.models.funnel_ae.tiny import toy

LAYER = {"components_90": 3.0, "components_99": 4.0, "participation_ratio": 3.5}
STEPS = [50, 100, 150, 200]
RECORD = ROOT / "configs/funnel_ae/report.jsonl"


def numbers(ce=0.01, exact=1.0, **more):
    return {
        "ce": ce,
        "exact_match": exact,
        "token_accuracy": exact,
        "curve": {"steps": [100, 200], "values": [3.0, ce]},
        "train": {"steps": STEPS, "values": [4.0, 0.04, 2.0, ce]},
        "differences": [0.5, 0.4],
        "attention": [3.5, 1.9],
        "layers": {"encoder 0.0": LAYER, "decoder 0.0": LAYER},
        "code": LAYER,
        **more,
    }


def row(variant, seed, **more):
    return {"variant": variant, "seed": seed, "numbers": numbers(**more)}


@pytest.fixture
def trained(monkeypatch):
    """Record the runs that are trained; a signal interrupts them from number `limit` on."""
    calls: list[str] = []
    limit = [99]

    def fake(config, workdir):
        if len(calls) == limit[0]:
            return None
        calls.append(workdir.name)
        return {"numbers": numbers(ce=0.01 + 0.001 * config.seed)}

    monkeypatch.setattr(report, "train_and_measure", fake)
    monkeypatch.setattr(report, "keep_programs", lambda folder: None)
    monkeypatch.setattr(report_figures, "draw", lambda rows, outdir, note: [outdir / "a.png"])
    monkeypatch.chdir(ROOT)
    return calls, limit


def test_interrupted_report_continues_and_is_made_from_rows_alone(trained, tmp_path, capsys):
    calls, limit = trained
    command = ["report", f"--workdir={tmp_path}", "--quick", "--only", "haar", "ff_sep"]
    limit[0] = 3
    assert report.main(command) == 75
    limit[0] = 99
    assert report.main(command) == 0
    assert len(calls) == len(set(calls)) == 4  # two seeds each
    page = (tmp_path / "report.md").read_text()
    assert page in capsys.readouterr().out and "QUICK" in page
    assert "| haar | 2 | 0.010 [0.004, 0.017] | 1.000 [1.000, 1.000] |" in page
    assert "Without a finished run: linear, interp" in page
    assert "| Haar separators: cross entropy | 0.0105 [0.00415, 0.0169] | < 0.05 | **conf" in page
    assert "![a](a.png)" in page
    (tmp_path / "report.md").unlink()
    assert report.main(command) == 0 and len(calls) == 4
    assert (tmp_path / "report.md").read_text() == page


def test_rows_of_other_configs_are_not_in_the_table(trained, tmp_path):
    command = ["report", f"--workdir={tmp_path}", "--quick", "--only", "haar", "--seeds", "0"]
    assert report.main(command) == 0
    base, record = report_config.get_config("quick"), tmp_path / "runs.jsonl"
    assert len(report.current_rows(record, base, report_config.VARIANTS)) == 1
    full = report_config.get_config()
    assert report.current_rows(record, full, report_config.VARIANTS) == []


def test_a_verdict_needs_an_interval_on_one_side_of_the_bound():
    def found(values, **options):
        rows = [row("haar", seed, ce=x) for seed, x in enumerate(values)]
        rows += [row("repeat", seed, ce=1.0) for seed in (1, 2)]
        return Claim("c", "haar", "ce", **options).evaluate(rows)

    assert found([0.01, 0.02, 0.01], bound=0.05)["verdict"] == "confirmed"
    assert found([0.01, 0.02, 0.01], bound=0.05, below=False)["verdict"] == "refuted"
    assert found([0.01, 0.2], bound=0.05)["verdict"] == "unclear"
    assert found([0.01], bound=0.05)["verdict"] == "unclear"
    assert found([], bound=0.05)["verdict"] == "not measured"
    assert found([0.01, math.nan], bound=0.05)["verdict"] == "unclear"
    # Differences are those of the seeds that both variants have.
    paired = found([9.0, 0.5, 0.6], bound=0.0, minus="repeat")
    assert paired["seeds"] == 2 and paired["mean"] == pytest.approx(-0.45)


def test_a_skip_is_open_until_its_weight_is_half():
    found = numbers() | {"skips": [[1.0, 0.5, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0]]}
    assert _open(found, 1.0) == {"step": 100, "ce": 3.0, "train": 0.04}
    closed = numbers() | {"skips": [[0.4, 0.2, 0.1, 0.0]]}
    assert _open(closed, 1.0) == {}


def test_figures_are_drawn_if_their_runs_are_there(tmp_path):
    skip = row("skip_late", 0, skips=[[1, 0.5, 0.2, 0], [1, 0, 0, 0]])
    files = report_figures.draw([skip, row("haar", 0), row("haar", 1)], tmp_path)
    assert [file.stem for file in files] == ["differences", "attention", "dimensions", "skips"]
    assert all(file.stat().st_size > 1000 for file in files)
    assert report_figures.draw([row("kl", 0)], tmp_path) == []


def test_claims_name_variants_of_the_config():
    known = set(report_config.VARIANTS)
    assert {claim.variant for claim in report_claims.CLAIMS} <= known
    assert {claim.minus for claim in report_claims.CLAIMS} <= known | {""}
    hashes = [
        config_hash(report.variant(report_config.get_config(), overrides, 0))
        for overrides in report_config.VARIANTS.values()
    ]
    assert len(set(hashes)) == len(hashes)


def test_stored_rows_belong_to_todays_configs():
    rows = read_record(RECORD, report.COLUMNS)
    current = report.current_rows(RECORD, report_config.get_config(), report_config.VARIANTS)
    assert len(current) == len(rows), "a config field is new: run python -m configs.rekey"


def test_mistakes_on_the_command_line_are_named(trained, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="skip_late"):
        report.main(["report", f"--workdir={tmp_path}", "--only", "none"])
    with pytest.raises(ConfigError, match="quick"):
        report_config.get_config("full")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="repository"):
        report.main(["report", f"--workdir={tmp_path}"])


@pytest.mark.slow
def test_a_trained_run_has_all_numbers(tmp_path):
    overrides = {
        "task__skip__kind": "linear",
        "task__skip__finish_by": (4,),
        "task__latent__encoding": "random",
    }
    found = report.train_and_measure(toy(eval__every=2, **overrides), tmp_path)
    assert found is not None
    json.dumps(found, allow_nan=False)
    got = found["numbers"]
    assert got["curve"]["steps"] == [2, 4] and got["train"]["steps"] == [1, 2, 3, 4]
    assert got["skips"] == [[1.0, 0.75, 0.5, 0.25]] and got["open"]["step"] == 2
    assert got["from_uniform"] == pytest.approx(abs(got["ce"] - math.log(6)), rel=1e-4)
    assert len(got["differences"]) == len(got["attention"]) == len(got["unexplained"]) == 1
    assert got["moments"]["std"] < 0.3 and len(got["layers"]) == 5
