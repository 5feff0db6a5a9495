"""The record and the table of the comparison; training is replaced by a stub."""

import json
import types

import pytest

from flaxae.errors import ConfigError
from flaxae.models.t5_vae import baselines
from flaxae.sweep import record as record_lib
from tests.helpers import ROOT

VARIANTS = {"ae": {}, "beta_vae": {"task.kl_weight": 0.5, "task.latent.gaussian": True}}


@pytest.fixture
def trained(monkeypatch):
    """Record the runs that are trained; a signal arrives after `fake.limit` of them."""
    calls = []

    def fake(config, workdir):
        if len(calls) == fake.limit:
            return None
        calls.append((config.task.latent.gaussian, config.seed))
        exact = 0.8 + 0.01 * config.seed
        splits = {"dev": {"exact_match": exact}}
        return {"splits": splits, "samples": {"validity": None}, "order": fake.order}

    fake.limit, fake.order = 99, "mt19937-1"
    monkeypatch.setattr(baselines, "train_and_evaluate", fake)
    return types.SimpleNamespace(calls=calls, fake=fake)


def run_all(tmp_path, seeds, record="runs.jsonl"):
    from configs.t5_vae.baselines import get_config

    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return baselines.run_all(get_config(), VARIANTS, seeds, out, tmp_path / record)


def test_record_is_continued_and_its_runs_are_not_trained_again(tmp_path, trained):
    trained.fake.limit = 3
    assert not run_all(tmp_path, [0, 1])  # a signal came
    assert trained.calls == [(False, 0), (True, 0), (False, 1)]
    trained.fake.limit = 99
    (tmp_path / "out" / "table.md").unlink()
    assert run_all(tmp_path, [0, 1])
    assert trained.calls[3:] == [(True, 1)]
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(r["variant"], r["seed"]) for r in rows] == [
        ("ae", 0),
        ("beta_vae", 0),
        ("ae", 1),
        ("beta_vae", 1),
    ]
    assert len({r["run"] for r in rows}) == 4
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    # t of one degree of freedom: .805 +- 12.706 * .005
    assert table[2].startswith("| ae | 2 | 0.805 [0.741, 0.869] | n/a |")
    assert table[3].startswith("| beta vae | 2 |")


def test_the_table_reports_runs_with_different_batch_orders(tmp_path, trained):
    assert run_all(tmp_path, [0])
    table = tmp_path / "out" / "table.md"
    assert "order" not in table.read_text()
    record = tmp_path / "runs.jsonl"
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert [row.pop("order") for row in rows] == ["mt19937-1"] * 2
    record.write_text("".join(json.dumps(row) + "\n" for row in rows))  # as before November 2026
    assert run_all(tmp_path, [0])
    assert "order" not in table.read_text()
    assert run_all(tmp_path, [0, 1])
    assert table.read_text().endswith("orders: before November 2026, mt19937-1.\n")


def test_run_of_an_incomplete_row_is_trained_again(tmp_path, trained):
    assert run_all(tmp_path, [0])
    record = tmp_path / "runs.jsonl"
    whole = record.read_text()
    record.write_text(whole[:-20])
    assert run_all(tmp_path, [0])
    assert trained.calls[2:] == [(True, 0)]
    assert record.read_text() == whole


def test_rows_name_the_commit_at_the_start_of_the_process(tmp_path, trained, monkeypatch):
    record_lib.running_commit.cache_clear()
    heads = iter(["first", "moved on"])
    monkeypatch.setattr("flaxae.sweep.record.versions", lambda: {"commit": next(heads)})
    assert run_all(tmp_path, [0]) and run_all(tmp_path, [0, 1])
    record_lib.running_commit.cache_clear()
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [row["commit"] for row in rows] == ["first"] * 4


def test_no_stored_run_would_be_trained_again(tmp_path, trained):
    from configs.t5_vae.baselines import VARIANTS as stored_variants
    from configs.t5_vae.baselines import get_config

    record = tmp_path / "baselines.jsonl"  # a copy: a run that is trained would add a row
    record.write_text((ROOT / "configs/t5_vae/baselines.jsonl").read_text())
    rows = record_lib.read_record(record).values()
    for dataset in ("python_lines", "docstrings"):
        variants = list(dict.fromkeys(r["variant"] for r in rows if r["dataset"] == dataset))
        assert len(variants) >= 5
        for name in variants:
            seeds = [r["seed"] for r in rows if (r["dataset"], r["variant"]) == (dataset, name)]
            one = {name: stored_variants[name]}
            assert baselines.run_all(get_config(dataset), one, seeds, tmp_path, record)
    assert not trained.calls, "a config field is new: run python -m configs.rekey"


@pytest.mark.parametrize(
    "text",
    [
        "no json\n",
        "{}\n",
        "[]\n",
        '{"run": 1, "variant": "a"}\n',
        '{"run": 1, "variant": "a", "numbers": {}}\n',
    ],
)
def test_other_files_are_not_records(tmp_path, trained, text):
    (tmp_path / "other.txt").write_text(text)
    with pytest.raises(ConfigError, match=r"other\.txt, line 1, .*--record"):
        run_all(tmp_path, [0], "other.txt")
    assert not trained.calls
    assert (tmp_path / "other.txt").read_text() == text
