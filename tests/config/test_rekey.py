"""Tests of renaming stored runs after configs gained or lost fields."""

import hashlib
import json

from configs import rekey
from configs.funnel_ae import report
from configs.looped import report_layers
from configs.t5_vae import baselines
from flaxae.config import config_hash, copy_config, to_json
from flaxae.storage.workdir import resolve, stored_config
from tests.helpers import ROOT

# Fields of every family's data section until November 2026.
OLD_FIELDS = {
    "name": "",
    "path": "",
    "max_length": 32,
    "num_buckets": 4,
    "long_lines": "skip",
    "vocab_size": 4096,
    "max_lines": 0,
    "labels": False,
    "tokenizer": "",
    "tokenizer_kind": "bpe",
    "ids_tokenizer": "",
    "bucket_edges": [],
}


def old_run(outdir, config):
    """Write a finished run as it was stored before; return its folder."""
    old = to_json(config)
    old["data"] |= OLD_FIELDS
    name = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()[:10]
    resolved = to_json(resolve(config, None))
    resolved["data"] |= OLD_FIELDS
    (outdir / name).mkdir(parents=True)
    (outdir / name / "config.json").write_text(json.dumps(resolved))
    (outdir / name / "result.json").write_text("{}")
    return outdir / name


def test_runs_of_a_sweep_are_renamed_and_found(tmp_path):
    experiment = report_layers.EXPERIMENT
    runs = experiment.get_runs("quick")[:3]
    configs = [copy_config(experiment.get_config("quick"), run) for run in runs]
    old = [old_run(tmp_path, config) for config in configs]
    assert rekey.rekey_runs(tmp_path) == 0
    for folder, config in zip(old, configs, strict=True):
        new = tmp_path / config_hash(config)
        assert not folder.exists() and (new / "result.json").exists()
        assert stored_config(new) == resolve(config, None)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert rekey.rekey_runs(tmp_path) == 0  # a second time there is nothing to do
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_run_that_its_name_does_not_belong_to_is_left(tmp_path, capsys):
    experiment = report_layers.EXPERIMENT
    config = copy_config(experiment.get_config("quick"), experiment.get_runs("quick")[0])
    folder = old_run(tmp_path, config)
    folder.rename(tmp_path / "mine")
    assert rekey.main(["rekey", "--outdir", str(tmp_path)]) == 1
    assert (tmp_path / "mine").exists() and "left" in capsys.readouterr().out


def test_runs_of_foreign_tasks_are_reported_and_the_others_renamed(tmp_path, capsys):
    experiment = report_layers.EXPERIMENT
    config = copy_config(experiment.get_config("quick"), experiment.get_runs("quick")[0])
    foreign = old_run(tmp_path, config).rename(tmp_path / "0")
    stored = json.loads((foreign / "config.json").read_text())
    stored["task"]["class"] = "config_config:OwnConfig"
    (foreign / "config.json").write_text(json.dumps(stored))
    old_run(tmp_path, config)
    assert rekey.rekey_runs(tmp_path) == 1
    assert "is not part of flaxae" in capsys.readouterr().out and foreign.exists()
    assert (tmp_path / config_hash(config)).exists()


def test_groups_are_renamed_if_their_base_is_known(tmp_path, capsys):
    experiment = report_layers.EXPERIMENT
    base, lanes = experiment.get_config("quick"), [{"seed": 1}, {"seed": 2}]
    run = old_run(tmp_path, base)
    old = tmp_path / "groups" / run.name / "111111-222222"
    old.parent.mkdir(parents=True)
    run.rename(old)
    stored = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps(stored | {"lanes": lanes}))
    assert rekey.rekey_runs(tmp_path) == 0
    names = [config_hash(copy_config(base, lane)) for lane in lanes]
    new = tmp_path / "groups" / config_hash(base) / f"{names[0][:6]}-{names[1][:6]}"
    assert stored_config(new) == resolve(base, None) and not old.exists()
    assert json.loads((new / "config.json").read_text())["lanes"] == lanes
    assert rekey.rekey_runs(tmp_path) == 0  # up to date
    # A base that differs from the group's config cannot be found out.
    other = new.rename(tmp_path / "groups" / "other")
    (tmp_path / "groups" / "0123456789").mkdir()
    other.rename(tmp_path / "groups" / "0123456789" / new.name)
    assert rekey.rekey_runs(tmp_path) == 1
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text("{}")
    assert rekey.rekey_runs(tmp_path) == 0
    assert "its runs are finished" in capsys.readouterr().out


def test_rows_of_a_record_are_renamed(tmp_path):
    row = {"run": "0123456789", "dataset": "docstrings", "variant": "ae", "seed": 2}
    path = tmp_path / "record.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert rekey.main(["rekey", "--record", str(path)]) == 0
    config = copy_config(baselines.get_config("docstrings"), {"seed": 2})
    assert json.loads(path.read_text()) == row | {"run": config_hash(config)}


def test_a_record_beside_its_config_is_renamed_by_its_variants(tmp_path):
    for name in ("iid.py", "report.py"):
        (tmp_path / name).write_text((ROOT / "configs/funnel_ae" / name).read_text())
    row = {"run": "0123456789", "variant": "frozen", "seed": 1}
    path = tmp_path / "report.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert rekey.main(["rekey", "--record", str(path)]) == 0
    config = copy_config(report.get_config(), report.VARIANTS["frozen"] | {"seed": 1})
    assert json.loads(path.read_text()) == row | {"run": config_hash(config)}
