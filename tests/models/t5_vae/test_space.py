"""The comparison of latent spaces: settings, steps of equal time, record and report."""

import json

import pytest

from configs import rekey
from configs.t5_vae import python_lines
from configs.t5_vae import space as settings
from flaxae.config import config_hash, copy_config, to_json
from flaxae.errors import ConfigError
from flaxae.models.t5_vae import space, space_page

NUMBERS = {
    "exact_match": 0.85,
    "exact_match_shuffled": 0.3,
    "samples_valid": 0.4,
    "samples_perplexity": 300.0,
    "samples_repetition": 0.01,
    "samples_distinct2": 0.7,
    "gmm_perplexity": 400.0,
    "real_perplexity": 40.0,
    "real_valid": 0.5,
    "real_repetition": 0.02,
    "path_middle_valid": 0.9,
    "best_path_middle_valid": 0.95,
    "path_largest_step": 0.3,
    "kind_probe_10": 0.6,
    "pull_valid": 0.5,
    "pull_perplexity": 200.0,
    "neighbours_recall_10": 0.2,
    "edit_move": 0.1,
    "bits": None,
}


def test_settings_are_different_runs_of_one_corpus():
    hashes = {}
    for name in settings.SETTINGS:
        config = settings.get_config(name, 1000)
        config.freeze()
        hashes[name] = config_hash(config)
        assert to_json(config)["data"] == to_json(python_lines.get_config("copy"))["data"]
        assert config.steps == config.task.mmd_ramp == 1000
        assert config.task.latent.noise_steps == (1000 if name == "copy" else 600)
        t5, lr = config.task.t5, dict((x[0], x[1]) for x in config.optim.groups)
        assert lr["/q/kernel$"] == pytest.approx(t5.d_kv**-0.5, abs=1e-3)
    assert len(settings.SETTINGS) >= 10 and len(set(hashes.values())) == len(hashes)
    kept = {"eval.every": 250, "eval.sample_every": 125, "save.every": 125}
    copy = copy_config(settings.get_config("copy", 1000), kept)
    assert to_json(copy) == to_json(python_lines.copy(1000))
    with pytest.raises(ConfigError, match="no preset 'copi'; there are copy, "):
        settings.get_config("copi")


@pytest.fixture
def trained(monkeypatch):
    """Record the settings that are timed and the runs that are trained."""
    calls: list = []

    def timed(config):
        calls.append(("timed", config.task.latent.dim))
        return 0.01 * config.task.latent.dim / 64

    def fake(config, workdir, sizes):
        calls.append((config.steps, config.seed))
        return {"order": "a"}

    monkeypatch.setattr(space, "step_seconds", timed)
    monkeypatch.setattr(space, "train_and_evaluate", fake)
    monkeypatch.setattr(space, "headline", lambda found: NUMBERS)
    monkeypatch.setattr(space, "machine_rate", lambda: 100.0)
    return calls


def test_steps_fill_the_minutes_and_are_kept(tmp_path, trained, monkeypatch):
    argv = ["space", "--workdir", str(tmp_path), "--settings", "sphere_64"]
    assert space.main([*argv, "--seeds", "0"]) == 0
    # 8 minutes at 200 GFLOP/s are 16 at 100: 960 s of steps of 10 and of 20 ms.
    assert trained == [("timed", 64), (96000, 0)]
    trained.clear()
    assert space.main([*argv, "sphere_128", "--seeds", "0"]) == 0
    assert trained == [("timed", 128), (48000, 0)]
    kept = json.loads((tmp_path / "space_steps.json").read_text())
    assert kept["settings"]["sphere_64"] == {"steps": 96000, "milliseconds": 10.0}
    with monkeypatch.context() as patch:  # a signal
        patch.setattr(space, "step_seconds", lambda config: None)
        assert space.main([*argv, "deeper"]) == 75
    with pytest.raises(ConfigError, match="fill 16 minutes, and its runs would not"):
        space.main([*argv, "--minutes", "4"])
    with pytest.raises(ConfigError, match=r"--settings: no spher; there are copy, "):
        space.main(["space", "--workdir", str(tmp_path), "--settings", "spher"])
    with pytest.raises(ConfigError, match="--quick: the steps in .* fill 16 minutes.*name another"):
        space.main([*argv, "--quick"])
    report = (tmp_path / "report.md").read_text()
    assert "| sphere_64 | 96,000 | 1 | 0.850 | 0.300 |" in report
    assert "| sphere_64 | yes | yes | yes | yes | yes | no | 5 of 6 |" in report
    assert (tmp_path / "tradeoff.png").stat().st_size > 1000
    rows = [json.loads(line) for line in (tmp_path / "space.jsonl").read_text().splitlines()]
    record = tmp_path / "record.jsonl"
    record.write_text("".join(json.dumps(row | {"run": "old"}) + "\n" for row in rows))
    record.with_suffix(".py").write_text(f"from {settings.__name__} import get_config\n")
    rekey.rekey_record(record)
    assert [json.loads(x)["run"] for x in record.read_text().splitlines()] == [
        row["run"] for row in rows
    ]
    kept = (tmp_path / "space.jsonl").read_text()
    rekey.rekey_record(tmp_path / "space.jsonl")  # no config file beside it
    assert (tmp_path / "space.jsonl").read_text() == kept
    record.with_suffix(".py").unlink()
    record.write_text(json.dumps({"variant": "copy", "seed": 0}) + "\n")
    with pytest.raises(ConfigError, match="no record.py beside it, and its rows are neither"):
        rekey.rekey_record(record)


def test_minutes_and_seeds_are_those_that_were_asked_for(tmp_path, trained):
    argv = ["space", "--workdir", str(tmp_path), "--settings", "sphere_64", "--minutes", "0.123456"]
    assert space.main([*argv, "--quick", "--seeds", "1", "2"]) == 0
    steps = trained[-1][0]
    assert trained[1:] == [(steps, 1), (steps, 2)]
    trained.clear()
    assert space.main([*argv, "--quick"]) == 0  # equal minutes; seed 0 alone
    assert trained == [(steps, 0)]
    kept = (tmp_path / "space.jsonl").read_text()
    rekey.rekey_record(tmp_path / "space.jsonl")
    assert (tmp_path / "space.jsonl").read_text() == kept
    # Rows of an evaluation with other sizes are not compared with these.
    assert space.main([*argv, "--seeds", "0"]) == 0 and len(trained) == 2


def test_goals_need_their_numbers():
    for name, bad in (
        ("exact_match", 0.79),
        ("exact_match_shuffled", 0.41),
        ("samples_perplexity", 401.0),
        ("samples_valid", 0.34),
        ("samples_repetition", 0.03),
        ("path_middle_valid", 0.84),
        ("samples_perplexity", None),
    ):
        row = {"variant": "a", "seed": 0, "numbers": NUMBERS | {name: bad}}
        assert space_page.goals_met([row]).endswith("| 4 of 6 |\n")


@pytest.mark.slow
def test_quick_trains_times_and_reports(tmp_path, capsys):
    argv = ["space", "--workdir", str(tmp_path), "--quick"]
    assert space.main(argv) == 0
    first = capsys.readouterr().out
    assert "| copy | 50 | 1 |" in first and "| late_quarter | 50 | 1 |" in first
    rows = [json.loads(line) for line in (tmp_path / "space.jsonl").read_text().splitlines()]
    for row in rows:
        missing = {name for name, x in row["numbers"].items() if x is None}
        assert not missing, missing
    assert space.main(argv) == 0  # nothing is trained again
    assert "ms per step" in first and "ms per step" not in capsys.readouterr().out
