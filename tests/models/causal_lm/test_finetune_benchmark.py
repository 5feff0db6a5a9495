"""benchmarks/lm_finetune.py: finished runs are read and not trained again."""

import importlib.util
import json
import sys

import pytest

from flaxae.config import flags, to_json
from tests.helpers import ROOT


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    path = ROOT / "benchmarks" / "lm_finetune.py"
    spec = importlib.util.spec_from_file_location("lm_finetune", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finished(folder):
    """Write the files of a run that was started twice, trained and evaluated."""
    folder.mkdir(parents=True)
    start = {"time/compile_seconds": 9.0, "time/peak_memory_bytes": 2e9}
    rows = [
        {"split": "train", "step": 2, "time/steps_per_second": 0.1, **start},
        {"split": "train", "step": 4, "time/steps_per_second": 0.5},
        {"split": "train", "step": 6, "time/steps_per_second": 0.05, **start},
        {"split": "train", "step": 8, "time/steps_per_second": 0.25},
        {"split": "train", "step": 10, "time/steps_per_second": 0.4},
        {"split": "dev", "step": 10, "loss": 1.0},
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = {"base": 4.0, "trained": 3.2, "difference": -0.8, "interval": [-1.0, -0.6]}
    report = {"step": 10, "trained_parameters": 1234, "dev": split, "test": split}
    (folder / "finetune.json").write_text(json.dumps(report))


def test_finished_runs_are_read_and_unsupported_methods_are_listed(
    bench, tmp_path, monkeypatch, capsys
):
    finished(tmp_path / "lora")
    called = []

    def run(command, log):
        called.append(command)
        return bench.REFUSED, 1.0

    monkeypatch.setattr(bench, "run", run)
    options = ["--workdir", str(tmp_path), "--threads=0", "--methods", "lora", "bias"]
    assert bench.main([*options, "--steps=10", "--set", "data.batch_size=4"]) == 0
    assert len(called) == 1 and called[0][:2] == [sys.executable, "train.py"]
    assert called[0][2].endswith("smollm2_lora.py:bias")
    assert called[0][-2:] == ["--config.steps=10", "--config.data.batch_size=4"]
    out = capsys.readouterr().out.splitlines()
    assert "| lora | 1,234 | 10 | 4.000 -> 3.200 |" in out[-3] and "| 2.50 s | 2.00 GB |" in out[-3]
    assert out[-2].startswith("| bias | refused")
    first, second = json.loads(out[-1])["cases"]
    assert first["ours"] == 3.2 and first["ratio"] == 1.25 and first["compile_seconds"] == 9.0
    assert second["refused"] is True
    # With more steps the run continues.
    with pytest.raises(SystemExit, match="train.py ended with exit code 75"):
        monkeypatch.setattr(bench, "run", lambda command, log: (75, 1.0))
        bench.main([*options[:4], "lora", "--steps=20"])


def test_a_finished_run_of_another_config_raises(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    finished(tmp_path / "lora")
    named = ["x", "--config=configs/causal_lm/smollm2_lora.py:lora", f"--workdir={tmp_path}"]
    config = flags.parse(named)[0]
    config.task.share_prefix = False
    (tmp_path / "lora" / "config.json").write_text(json.dumps(to_json(config)))
    monkeypatch.setattr(bench, "run", lambda *_: pytest.fail("nothing is to be trained"))
    options = ["--workdir", str(tmp_path), "--threads=0", "--methods", "lora"]
    with pytest.raises(SystemExit, match="share_prefix: False -> True"):
        bench.main(options)
