"""benchmarks/looped_lanes.py at its smallest size: one row per number of lanes, one JSON line."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
def test_lanes_are_compared_with_consecutive_runs(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)  # would limit this process
    spec = importlib.util.spec_from_file_location("looped_lanes", FOLDER / "looped_lanes.py")
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    options = ["--cases=tiny", "--lanes", "1", "2", "--batch=2", "--rounds=1", "--block=1"]
    assert bench.main([*options, "--threads=1"]) == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert sum(line.startswith("| tiny |") for line in lines) == 2
    cases = json.loads(lines[-1])["cases"]
    assert [case["lanes"] for case in cases] == [1, 2]
    for case in cases:
        assert case["ratio"] == pytest.approx(case["theirs"] / case["ours"], abs=1e-3)
        # Two lanes need at least the memory of one.
        assert case["temporary_bytes"] >= case["temporary_bytes_of_one"]
