"""`python -m flaxae.models.funnel_ae.text_report`."""

import json
from pathlib import Path
from typing import Any

import pytest

from flaxae.errors import ConfigError
from flaxae.models.funnel_ae import text_report

# A config file of tiny runs.
CONFIG = """
import dataclasses
from pathlib import Path
from flaxae.config import copy_config
from tests.models.funnel_ae.tiny import texts

RUNS = {"small": ("", {}, (0, 1)), "large": ("", {"task.latent.dim": 6}, (0,))}


def get_config(run="small", minutes=1.0):
    config = texts(Path(__file__).parent, steps=round(2 * minutes))
    config.eval.num_samples = 0
    return copy_config(config, RUNS[run][1])
"""


def test_runs_become_rows_once(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "runs.py").write_text(CONFIG)
    report = {"step": 2000, "splits": {"dev": {"exact_match": 0.5, "token_accuracy": 0.75}}}
    (tmp_path / "t5.json").write_text(json.dumps(report))
    argv = ["text_report", f"--workdir={tmp_path / 'runs'}", f"--record={tmp_path / 'rows.jsonl'}"]
    argv += [f"--config={tmp_path / 'runs.py'}", f"--t5_vae={tmp_path / 't5.json'}"]
    assert text_report.main([*argv, "--only", "small"]) == 0
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    # Two blocks: 8 tokens are 4 latents of 4 numbers.
    assert [(r["variant"], r["seed"], r["floats"], r["steps"]) for r in rows] == [
        ("small", 0, 16, 2),
        ("small", 1, 16, 2),
    ]
    assert all(0 <= row["numbers"]["first token"] <= 1 for row in rows)
    assert all(row["numbers"]["CE (nats per token)"] > 1 for row in rows)
    for folder in (tmp_path / "runs").iterdir():  # the rows are enough
        if folder.is_dir():
            (folder / "config.json").unlink()
    capsys.readouterr()
    assert text_report.main([*argv, "--only", "small"]) == 0
    assert (tmp_path / "rows.jsonl").read_text().splitlines() == lines
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].startswith("| small | 16 | 2 | 2 | ")
    assert shown[3] == "| t5 vae | 256 | 2,000 | 1 | 0.500 | 0.750 | n/a | n/a |"


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
