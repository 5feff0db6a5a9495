"""Calls side by side: each has its own cores and its own log, and ends independently."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flaxae.errors import ConfigError
from flaxae.sweep.workers import Call, cores, run_all
from tests.helpers import ROOT, arrays_of, assert_same, environment, log_of

pytestmark = pytest.mark.skipif(len(cores()) < 2, reason="needs two cores")
POISON = "'task.poison'", 1.0
SWEEP = """
from tests.tiny.family import tiny_config

def get_config(preset=""):
    return tiny_config(steps=%d, save__every=1_000_000, log__progress=True)

def get_runs(preset):
    return [{"seed": s} for s in (0, 1)] + [{%s: %s}]
"""


def note(folder: Path, code: int) -> int:
    """Write the cores of this call; return or raise."""
    print("printed by the call")
    (folder / f"{code}.json").write_text(json.dumps(cores()))
    if code == 9:
        raise RuntimeError("a fault of the call")
    return code


def test_calls_share_the_cores_and_a_failure_stops_no_other_call(tmp_path):
    codes, ends = (0, 9, 3), {}
    calls = [Call(str(c), note, (tmp_path, c), tmp_path / "logs" / f"{c}.log") for c in codes]
    assert run_all(calls, 2, lambda end: ends.update({codes[end.index]: end.code})) is None
    assert ends == {0: 0, 9: 1, 3: 3}
    found = [json.loads((tmp_path / f"{c}.json").read_text()) for c in codes]
    assert set(found[0]).isdisjoint(found[1])
    assert set(found[0]) | set(found[1]) == set(cores())
    logs = [(tmp_path / "logs" / f"{c}.log").read_text() for c in codes]
    assert all("printed by the call" in log for log in logs)
    assert "a fault of the call" in logs[1]


@pytest.mark.parametrize("jobs", [0, 10_000])
def test_a_wrong_number_of_jobs_is_refused(jobs):
    with pytest.raises(ConfigError, match=f"jobs={jobs}: this process may use"):
        run_all([], jobs)


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "flaxae.sweep", f"--config={folder / 'mine.py'}", *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_sweep_side_by_side_equals_a_sweep_in_sequence(tmp_path):
    (tmp_path / "mine.py").write_text(SWEEP % (20, *POISON))
    out = {}
    for name, options in (("two", ["--jobs=2"]), ("one", [])):
        process = start(tmp_path, f"--workdir={tmp_path / name}", "--no-lanes", *options)
        out[name] = process.communicate(timeout=300)[0]
        assert process.returncode == 1, out[name]  # a run went non-finite
    assert "3 programs to train, 2 at a time" in out["two"]
    assert "/3 task.poison=1.0: failed" in out["two"] and "/3 seed=1: done" in out["two"]
    tables = [
        (tmp_path / name / "tables" / "mine" / "table.csv").read_text() for name in ("one", "two")
    ]
    assert tables[0] == tables[1] and tables[0].count("done") == 2 and "failed" in tables[0]
    runs = [p.parent.parent.name for p in (tmp_path / "one").glob("*/latest/*")]
    assert len(runs) == 2
    for run in runs:
        assert_same(arrays_of(tmp_path / "one" / run), arrays_of(tmp_path / "two" / run))
        assert log_of(tmp_path / "one" / run) == log_of(tmp_path / "two" / run)


@pytest.mark.slow
def test_a_sweep_saves_after_ctrl_c_and_continues(tmp_path):
    steps = 3000
    (tmp_path / "mine.py").write_text(SWEEP % (steps, *POISON))
    work, command = tmp_path / "w", [f"--workdir={tmp_path / 'w'}", "--jobs=2", "--no-lanes"]
    process = start(tmp_path, *command)
    try:
        deadline = time.monotonic() + 200
        while len(list(work.glob("*/metrics.jsonl"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert process.returncode == 130, text
    table = (work / "tables" / "mine" / "table.md").read_text()
    assert table.count("sigint") == 3 and "done" not in table, table
    saved = {p.parent.parent.name: int(p.name) for p in work.glob("*/latest/*")}
    assert len(saved) == 2 and all(0 < step < steps for step in saved.values()), saved
    process = start(tmp_path, *command)
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and text.count(": done") == 2, text
    for run, step in saved.items():
        assert f"steps {step} -> {steps}" in (work / "logs" / f"{run}.log").read_text()


def test_a_single_call_has_all_cores(tmp_path):
    run_all([Call("one", note, (tmp_path, 0), tmp_path / "one.log")], 2)
    assert json.loads((tmp_path / "0.json").read_text()) == cores()


def test_a_call_that_cannot_begin_is_reported(tmp_path):
    ends = []
    assert run_all([Call("lost", note, (tmp_path, 0), tmp_path)], 1, ends.append) is None
    assert ends[0].code == 1  # its log is a folder


@pytest.mark.parametrize("jobs", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_wrong_config_is_an_error_side_by_side_and_in_sequence(tmp_path, jobs):
    (tmp_path / "mine.py").write_text(SWEEP % (20, "'mesh.replica'", 7))
    process = start(tmp_path, f"--workdir={tmp_path / 'w'}", "--no-lanes", f"--jobs={jobs}")
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 2 and out.count("error: ") == 1, out
    assert "error: mesh: 1 devices cannot be divided" in out
