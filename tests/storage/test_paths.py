"""Paths of a bucket and of a local folder; runs in a bucket equal runs in a folder.

The bucket is `tests.fake_gcs`. gcsfs and tensorstore use it like the real service, but it was never
compared with that.
"""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import flaxae
from flaxae import sweep
from flaxae.config import LogConfig
from flaxae.errors import ConfigError
from flaxae.storage import paths
from flaxae.storage.jsonl import LineFile
from flaxae.storage.metrics_file import Writer
from flaxae.sweep import plan as sweep_plan
from flaxae.training.loop import run
from flaxae.training.report import evaluate
from tests.fake_gcs import Server
from tests.helpers import arrays_of, assert_same, log_of, start_pair, start_tiny
from tests.tiny.family import TinyConfig, TinyTask, tiny_config

OPTIONS = {"steps": 20, "save__every": 4, "save__keep": 2, "save__best_metric": "dev/loss"}


@pytest.fixture
def bucket(one_server: Server) -> Iterator[Server]:
    yield one_server
    one_server.failing = lambda method, name: False
    one_server.objects.clear()


@pytest.mark.parametrize(
    "path", ["s3://b/x", "http://h/x", "gs:/b/x", "gs://", "gs://b", "gs://b/", Path("gs://b/x")]
)
def test_a_path_that_is_not_a_folder_is_refused_first(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="gs://BUCKET/FOLDER"):
        run(tiny_config(), path)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_error_that_names_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"pip install .*'\.\[gcs\]'"):
        run(tiny_config(), "gs://bucket/run")
    assert not list(tmp_path.iterdir())


def test_local_paths_are_plain_paths(tmp_path):
    for text in ("runs/x", "/a/b", "x", "a~/y", "a:b"):
        assert paths.as_path(text) == Path(text) and type(paths.as_path(text)) is type(Path())
    assert not paths.is_remote(paths.as_path(tmp_path))
    with paths.local_for_writing(tmp_path / "new") as folder:
        assert folder == tmp_path / "new" and folder.is_dir()
    with paths.local_for_reading(tmp_path) as folder:
        assert folder == tmp_path


def test_a_log_in_a_bucket_equals_a_log_on_disk(bucket, tmp_path):
    for folder in (tmp_path, "gs://bucket/run"):
        writer = Writer(folder, LogConfig(tensorboard=False))
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": step}, texts={"t": ["é\u2028x"]})
        writer.flush()
        writer = Writer(folder, LogConfig(tensorboard=False))  # a run that continues
        writer.cut(2)
        writer.write(3, "train", {"loss": 30})
        writer.cut(2)
        writer.write(3, "train", {"loss": 31})
        writer.close()
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert bucket.text(f"run/{name}") == (tmp_path / name).read_text(encoding="utf-8")
    assert len(bucket.text("run/metrics.jsonl").splitlines()) == 3
    assert bucket.text("run/samples.jsonl").count("\n") == 2
    writer = Writer("gs://bucket/run", LogConfig(tensorboard=False))
    writer.write(4, "train", {"loss": 4})  # without a cut: the lines stay
    writer.close()
    assert len(bucket.text("run/metrics.jsonl").splitlines()) == 4


def test_a_log_is_not_uploaded_for_every_line(bucket):
    lines = LineFile(paths.as_path("gs://bucket/log"))
    before = len(bucket.requests)
    for i in range(200):
        lines.append(f"{i}\n")
    writes = [r for r in bucket.requests[before:] if "uploadType=" in r]
    assert len(writes) == 1
    lines.flush()
    assert bucket.text("log") == "".join(f"{i}\n" for i in range(200))


def test_a_log_that_cannot_be_written_stops_a_save_with_one_message(bucket, capfd):
    writer = Writer("gs://missing/run", LogConfig(tensorboard=False))
    writer.write(1, "train", {"loss": 1.0})
    assert "warning: cannot write gs://missing/run/metrics.jsonl" in capfd.readouterr().err
    with pytest.raises(ConfigError, match="cannot write gs://missing/run/metrics.jsonl"):
        writer.flush()
    writer.close()
    assert "warning" in capfd.readouterr().err


def test_folders_are_renamed_copied_and_removed(bucket):
    latest = paths.as_path("gs://bucket/run/latest")
    assert paths.children(latest) == []
    for name in ("8/a", "8/state/b", f"8/{paths.COMMITTED}", "80/a", "torn_8/old"):
        bucket.put(f"run/latest/{name}", name.encode())
    assert [p.name for p in paths.children(latest)] == ["8", "80", "torn_8"]
    bucket.put("run/latest/81/a", b"")  # by another process
    assert [p.name for p in paths.children(latest)] == ["8", "80", "81", "torn_8"]
    del bucket.objects["run/latest/81/a"]
    assert paths.committed(latest / "8") and not paths.committed(latest / "80")
    paths.rename_folder(latest / "8", latest / "torn_8")
    moved = ["a", paths.COMMITTED, "state/b"]
    assert bucket.names() == ["run/latest/80/a", *(f"run/latest/torn_8/{x}" for x in moved)]
    assert bucket.text("run/latest/torn_8/state/b") == "8/state/b"
    paths.copy_folder(latest / "torn_8", paths.as_path("gs://bucket/other/deep"))
    assert bucket.names("other") == [f"other/deep/{x}" for x in moved]
    for _ in range(2):
        paths.rmtree(latest)
    assert bucket.names() == [f"other/deep/{x}" for x in moved]


def test_code_that_needs_a_local_folder_gets_one(bucket):
    folder = paths.as_path("gs://bucket/run")
    with paths.local_for_writing(folder) as local:
        (local / "tokenizer.json").write_text("{}")
        (local / "base").mkdir()
        (local / "base" / "x.bin").write_bytes(b"\0\r\n")
    bucket.put("run/latest/8/large", b"...")
    with paths.local_for_reading(folder, paths.NO_ASSETS) as local:
        found = {p.relative_to(local).as_posix() for p in local.rglob("*") if p.is_file()}
        assert found == {"tokenizer.json", "base/x.bin"}
        assert (local / "base" / "x.bin").read_bytes() == b"\0\r\n"
    assert not local.exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the run in a local folder, without interruption."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    child = start_tiny({"workdir": str(workdir), "overrides": OPTIONS})
    assert child.wait(180) == 0, child.communicate()
    return workdir


def assert_equal_runs(bucket: Server, folder: str, whole: Path) -> None:
    there = paths.as_path(f"gs://bucket/{folder}")
    assert_same(arrays_of(there), arrays_of(whole))
    assert log_of(there) == log_of(whole)
    for name in ("latest", "best"):
        steps = sorted(p.name for p in paths.children(there / name))
        assert steps == sorted(p.name for p in (whole / name).iterdir())


@pytest.mark.slow
def test_a_run_killed_and_resumed_in_a_bucket_equals_the_run_in_a_folder(bucket, whole):
    options = {"workdir": "gs://bucket/run", "overrides": OPTIONS}
    for death in ({"die_at": 6}, {"die_in_save": 20, "die_from": 8}):
        child = start_tiny(options | death)
        assert child.wait(180) == -signal.SIGKILL, child.communicate()
    # What a save leaves that was killed before its last object.
    bucket.put("run/latest/18/state/d/half", b"...")
    child = start_tiny(options)
    out, err = child.communicate(timeout=180)
    assert child.returncode == 0, err
    assert_equal_runs(bucket, "run", whole)
    loaded = flaxae.load("gs://bucket/run", TinyConfig)
    here = flaxae.load(whole, TinyConfig)
    assert loaded.step == here.step and loaded.config == here.config
    np.testing.assert_array_equal(loaded.model.head[...], here.model.head[...])
    before = {name: bucket.objects[name] for name in bucket.names("run/latest")}
    child = start_tiny(options)  # the run is done already
    assert child.wait(180) == 0, child.communicate()
    assert {name: bucket.objects[name] for name in bucket.names("run/latest")} == before
    for name in bucket.names("run/latest/20/state/"):
        if "/d/" in name or "manifest" in name:
            bucket.put(name, b"torn")
    child = start_tiny(options)
    out, err = child.communicate(timeout=180)
    assert child.returncode == 0, err
    assert "went back to step 16" in err
    assert bucket.names("run/latest/torn_20/state/")
    there = paths.as_path("gs://bucket/run")
    assert_same(arrays_of(there), arrays_of(whole))
    assert log_of(there) == log_of(whole)


@pytest.mark.slow
def test_two_processes_write_into_a_bucket(bucket, whole):
    options = {"workdir": "gs://bucket/two", "overrides": OPTIONS, "slow": 0.05}
    pair = start_pair(options)
    codes = [child.wait(240) for child in pair]
    assert codes == [0, 0], [child.communicate()[1][-2000:] for child in pair]
    there = paths.as_path("gs://bucket/two")
    assert_same(arrays_of(there), arrays_of(whole), atol=1e-5)
    assert [row["step"] for row in log_of(there)] == [row["step"] for row in log_of(whole)]


def test_a_bucket_that_cannot_be_opened_is_one_message_before_training(bucket):
    child = start_tiny({"workdir": "gs://missing/run"})
    out, err = child.communicate(timeout=120)
    assert child.returncode == 2
    assert "error: the bucket of gs://missing/run cannot be opened" in err
    assert "Traceback" not in err


def test_all_other_files_of_a_run_go_into_the_bucket(bucket, tmp_path):
    """TensorBoard, a profile, a bad batch."""
    overrides = {"log__tensorboard": True, "profile": (2, 4), "steps": 6, "save__every": 3}
    child = start_tiny({"workdir": "gs://bucket/all", "overrides": overrides})
    assert child.wait(180) == 0, child.communicate()
    assert any("tfevents" in name for name in bucket.names("all/tensorboard/"))
    assert any(name.endswith(".xplane.pb") for name in bucket.names("all/profile/"))
    bad = tiny_config(task__poison=1.0)
    with pytest.raises(Exception, match=r"in gs://bucket/bad/bad_batch_5\.npz"):
        run(bad, "gs://bucket/bad")
    file = tmp_path / "batch.npz"
    file.write_bytes(bucket.objects["bad/bad_batch_5.npz"][0])
    assert set(np.load(file)) == {"x", "y", "weight"}


@pytest.mark.slow
def test_a_sweep_in_a_bucket_equals_a_sweep_in_a_folder(bucket, tmp_path):
    grid = sweep_plan.expand({"optim.lr": [1e-2, 1e-3]})
    config = tiny_config(steps=4, save__every=2, save__best_metric="dev/loss")
    here, there = (sweep.sweep(config, grid, outdir) for outdir in (tmp_path, "gs://bucket/sweep"))
    assert here == there and [row["status"] for row in there] == ["done", "done"]
    for name in ("table.csv", "table.md"):
        assert bucket.objects[f"sweep/{name}"][0] == (tmp_path / name).read_bytes()
    before = bucket.names()
    assert sweep.sweep(config, grid, "gs://bucket/sweep") == there
    assert bucket.names() == before
    result = json.loads(bucket.text(f"sweep/{there[0]['run']}/result.json"))
    assert result["status"] == "done"
    assert_same(
        arrays_of(paths.as_path(f"gs://bucket/sweep/{there[1]['run']}")),
        arrays_of(tmp_path / here[1]["run"]),
    )


def test_the_report_on_a_run_in_a_bucket_goes_there(bucket, monkeypatch):
    run(tiny_config(steps=2), "gs://bucket/run")

    def report(task, loaded, outdir):
        (Path(outdir) / "figure.png").write_bytes(b"png")
        print(f"step {loaded.step}")
        return {"step": loaded.step}

    monkeypatch.setattr(TinyTask, "report", report, raising=False)
    assert evaluate("gs://bucket/run", config_class=TinyConfig) == {"step": 2}
    assert bucket.names("run/report") == ["run/report/figure.png", "run/report/report.txt"]
    assert bucket.text("run/report/report.txt") == "step 2\n"
