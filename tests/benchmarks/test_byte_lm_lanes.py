"""benchmarks/byte_lm_lanes.py with steps that do nothing."""

import json
import sys
from pathlib import Path

import pytest

from flaxae.models.byte_lm import rates

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


class Idle:
    """A step that takes no time."""

    compile_seconds = 0.5

    def __init__(self, config, lanes=None):
        self.bytes_per_call = config.data.batch_size * 256 * len(lanes or [0])
        self.lanes = lanes

    def __call__(self):
        assert self.lanes is None or len({json.dumps(lane) for lane in self.lanes}) == 12


def test_table_and_last_line(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    import byte_lm_lanes

    monkeypatch.setattr(rates, "Timed", Idle)
    monkeypatch.setattr(byte_lm_lanes._threads, "pin", lambda count: None)
    assert byte_lm_lanes.main(["--streams", "8", "--large-streams", "16", "--rounds=2"]) == 0
    out = capsys.readouterr().out.rstrip().splitlines()
    result = json.loads(out[-1])
    small, large = result["cases"]
    assert small["bytes"] == 12 * 8 * 256 and small["ratio"] == pytest.approx(
        small["theirs"] / small["ours"], rel=1e-2
    )
    assert large["unit"] == "GFLOP/s" and large["theirs"] > 0
    assert sum(line.startswith("| 12 lanes, 8 streams") for line in out) == 1
    del sys.modules["byte_lm_lanes"]
