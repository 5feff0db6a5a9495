"""Logs that are cut back on resume, progress lines, goodput, peaks."""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.config import LogConfig
from flaxae.errors import ConfigError
from flaxae.storage.metrics_file import Writer
from flaxae.task import Task
from flaxae.training import metrics
from flaxae.training.step import _mean

PLAIN = LogConfig(tensorboard=False)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_arrays_are_logged_as_plain_numbers(tmp_path):
    writer = Writer(tmp_path / "w", PLAIN)
    writer.write(5, "train", {"loss": jnp.float32(0.5), "bad": np.int32(0), "worse": float("nan")})
    writer.write(5, "sample", {}, texts={"lines": ["é", "x = 1"]})
    writer.close()
    want = {"step": 5, "split": "train", "loss": 0.5, "bad": 0, "worse": None}
    assert rows(writer.path) == [want]
    assert rows(tmp_path / "w" / "samples.jsonl") == [
        {"step": 5, "split": "sample", "lines": ["é", "x = 1"]}
    ]


def test_cut_removes_later_lines_and_half_lines(tmp_path):
    writer = Writer(tmp_path, PLAIN)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": step}, texts={"t": [str(step)]})
    writer.close()
    whole = writer.path.read_text()
    with writer.path.open("a") as f:
        f.write('{"step": 2, "split": "tr')
    writer = Writer(tmp_path, PLAIN)
    writer.cut(3)
    assert writer.path.read_text() == whole
    writer.cut(2)
    writer.write(3, "train", {"loss": 30})
    assert [(r["step"], r["loss"]) for r in rows(writer.path)] == [(1, 1), (2, 2), (3, 30)]
    assert [r["step"] for r in rows(tmp_path / "samples.jsonl")] == [1, 2]
    writer.cut(0)
    assert writer.path.read_text() == ""
    assert not list(tmp_path.glob("*.tmp"))


def test_other_processes_write_nothing(tmp_path):
    writer = Writer(tmp_path / "w", LogConfig(), process_index=1)
    writer.write(1, "train", {"loss": 1.0})
    writer.cut(0)
    writer.flush()
    writer.close()
    assert not (tmp_path / "w").exists()


def test_tensorboard_gets_scalars_texts_and_images(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = Writer(tmp_path, LogConfig(tensorboard=True))
    image = np.zeros((4, 5, 3), np.uint8)
    writer.write(1, "train", {"loss": 1.0}, {"lines": ["a"]}, {"map": image})
    writer.flush()
    writer.cut(0)
    writer.write(1, "train", {"loss": 2.0})
    writer.close()
    events = list((tmp_path / "tensorboard").glob("events*"))
    content = b"".join(path.read_bytes() for path in events)
    for tag in (b"train/loss", b"train/lines", b"train/map"):
        assert tag in content


def test_progress_without_a_terminal(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    progress = metrics.Progress(100, 10, True, 64, "examples")
    progress.note("hello")
    for step in range(20, 101, 10):
        now[0] += 4.0 if step > 20 else 20.0  # the first ten compile
        progress.update(step, {"loss": np.float32(0.25)})
    progress.close()
    hello, *lines = capsys.readouterr().out.splitlines()
    assert hello == "hello"
    assert lines[0] == "step 20/100 (20 %), loss 0.25, 32 examples/s, ETA 2:40"
    assert lines[1] == "step 50/100 (50 %), loss 0.25, 160 examples/s, ETA 0:20"
    assert lines[-1].startswith("step 100/100 (100 %)") and len(lines) == 4


def test_progress_on_a_terminal_and_disabled(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = metrics.Progress(10, 2, True, 1, "examples")
    progress.update(6, {"loss": 1.5})
    progress.note("a note")
    progress.close()
    shown = capsys.readouterr()
    assert "6/10" in shown.err and "a note" in shown.out
    off = metrics.Progress(10, 2, False, 1, "examples")
    off.update(6, {})
    off.note("a note")
    off.close()
    shown = capsys.readouterr()
    assert not shown.out and not shown.err


def test_goodput_leaves_out_what_is_tracked():
    goodput = metrics.Goodput()
    assert goodput.share() > 0.9
    for _ in range(2):
        with goodput.track("eval"):
            time.sleep(0.02)
    assert goodput.seconds["eval"] >= 0.04 and 0 <= goodput.share() < 0.6


def test_compile_time_counts_until_it_is_closed():
    compiled = metrics.CompileTime()
    jax.jit(lambda x: x * 2 + 3)(jnp.arange(7.0))
    first = compiled.seconds
    compiled.close()
    compiled.close()
    jax.jit(lambda x: x * 3 + 3)(jnp.arange(7.0))
    assert 0 < first == compiled.seconds


def test_peak_flops_and_mfu(monkeypatch):
    for kind, flops in (
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("cpu", 0.0),
    ):
        assert metrics.peak_flops(SimpleNamespace(device_kind=kind)) == flops
    assert metrics.mfu(1e9, 1.0, 1) == 0.0  # the peak of a CPU is unknown
    monkeypatch.setattr(metrics.jax, "devices", lambda: [SimpleNamespace(device_kind="TPU v4")])
    assert metrics.mfu(275e12, 2.0, 4) == pytest.approx(0.125)
    assert metrics.peak_memory_bytes() > 10**6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    writer = Writer(tmp_path, LogConfig(tensorboard=False))
    with pytest.raises(ConfigError, match="No space left.*same command"):
        writer.write(1, "train", {"loss": 1.0})


def test_a_metric_that_nothing_measured_is_undefined_and_not_0():
    """A weight of 0 once made a loss of 0, the best value of a run."""
    sums = {"loss": (0.0, 0.0), "error": (1.0, 4.0), "by_point": (np.ones(3), 1.0)}
    found = Task().finalize(sums)
    assert math.isnan(found.pop("loss")) and found == {"error": 0.25}
    assert math.isnan(_mean(jnp.float32(0), jnp.float32(0)))
    assert _mean(jnp.float32(1), jnp.float32(4)) == 0.25
