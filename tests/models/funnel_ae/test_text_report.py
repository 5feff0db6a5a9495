"""`python -m flaxae.models.funnel_ae.text_report`."""

import json
from pathlib import Path
from typing import Any

import pytest

from flaxae.errors import ConfigError
from flaxae.models.funnel_ae import text_report
from tests.helpers import log_of
from tests.models.funnel_ae.tiny import texts

CONFIG = """
from pathlib import Path
from flaxae.config import copy_config
from tests.models.funnel_ae.tiny import texts

RUNS = {"small": ("", {}, (0, 1)), "large": ("", {"task.latent.dim": 6}, (0,))}


def get_config(run="small", minutes=1.0):
    config = texts(Path(__file__).parent, steps=round(2 * minutes))
    config.eval.num_samples = 0
    return copy_config(config, RUNS[run][1])
"""


def fake(config: Any, workdir: Path) -> dict[str, Any]:
    """Return the row of a run without training it."""
    numbers = dict.fromkeys(text_report.COLUMNS, 0.25 + config.seed / 2)
    return {"numbers": numbers, "floats": text_report.floats(config), "steps": config.steps}


def test_runs_become_rows_once(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    (tmp_path / "runs.py").write_text(CONFIG)
    report = {"step": 2000, "splits": {"dev": {"exact_match": 0.5, "token_accuracy": 0.75}}}
    report["likelihood"] = {"cross_entropy": {"value": 0.125, "low": 0.1, "high": 0.2}}
    (tmp_path / "t5.json").write_text(json.dumps(report))
    argv = ["text_report", f"--workdir={tmp_path / 'runs'}", f"--record={tmp_path / 'rows.jsonl'}"]
    argv += [f"--config={tmp_path / 'runs.py'}", f"--t5_vae={tmp_path / 't5.json'}"]
    monkeypatch.setattr(text_report, "train", fake)
    assert text_report.main([*argv, "--only", "small", "--minutes=2"]) == 0
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    # Two blocks: 8 tokens are 4 latents of 4 numbers.
    rows = [json.loads(line) for line in lines]
    assert [(r["variant"], r["seed"], r["floats"], r["steps"]) for r in rows] == [
        ("small", 0, 16, 4),
        ("small", 1, 16, 4),
    ]
    monkeypatch.delattr(text_report, "train")  # the rows are enough
    capsys.readouterr()
    assert text_report.main([*argv, "--only", "small", "--minutes=2"]) == 0
    assert (tmp_path / "rows.jsonl").read_text().splitlines() == lines
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].startswith("| small | 16 | 4 | 2 | 0.500 [")
    assert shown[3] == "| t5 vae | 256 | 2,000 | 1 | 0.500 | 0.750 | n/a | 0.125 |"


@pytest.mark.slow
def test_row_has_the_numbers_of_the_last_evaluation(tmp_path: Path) -> None:
    config = texts(tmp_path, steps=2, eval__num_samples=0)
    row: Any = text_report.train(config, tmp_path / "run")
    (last,) = [x for x in log_of(tmp_path / "run") if x["split"] == "dev"]
    assert row["numbers"]["first token"] == last["first_token_accuracy"]
    assert row["numbers"]["CE (nats per token)"] == last["recon"] > 1
    assert (row["floats"], row["steps"]) == (16, 2)


def test_bad_options_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "runs.py").write_text(CONFIG)
    argv = ["text_report", f"--workdir={tmp_path}", f"--config={tmp_path / 'runs.py'}"]
    with pytest.raises(ConfigError, match=r"--only: no tiny; there are small, large"):
        text_report.main([*argv, "--only", "tiny"])
    (tmp_path / "t5.json").write_text('{"step": 3}')
    with pytest.raises(ConfigError, match=r"--t5_vae=.*t5.json: not a report with the split 'dev'"):
        text_report.main([*argv, f"--t5_vae={tmp_path / 't5.json'}"])
    with pytest.raises(ConfigError, match=r"no such file; run this in flaxae's repository"):
        text_report.main([*argv, f"--config={tmp_path / 'none.py'}"])
