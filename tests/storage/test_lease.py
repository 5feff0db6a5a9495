"""The lease of a workdir: who has it, when it is stale, and what a run does that lost it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flaxae.errors import ConfigError
from flaxae.storage import lease as lease_lib
from flaxae.storage import paths, processes
from flaxae.storage.checkpoint import read_arrays
from flaxae.storage.lease import FILE, Holder, Lease, TakenOverError
from flaxae.storage.processes import process_start
from flaxae.storage.versioned import open_versioned
from flaxae.training.loop import Loop, run
from flaxae.training.setup import make_setup
from tests.helpers import log_of, start
from tests.tiny.family import tiny_config


@pytest.fixture(params=["disk", "bucket"])
def workdir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path / "run"
        return
    server = request.getfixturevalue("one_server")
    yield paths.as_path("gs://bucket/run")
    server.objects.clear()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_lib, "POLL_SECONDS", 0.02)


def same() -> bool:
    return True


def put(workdir: Path, **changes: Any) -> Holder:
    """Write the lease of a process on another host, renewed now, with some fields changed."""
    holder = dataclasses.replace(
        Holder.of_this_process(), host="elsewhere", machine="another boot", **changes
    )
    file = open_versioned(workdir / FILE)
    text = json.dumps(dataclasses.asdict(holder))
    assert file.swap(file.read()[1], text)
    return holder


def holder_in(workdir: Path) -> Holder | None:
    return Holder.read(open_versioned(workdir / FILE).read()[0])


def test_a_lease_names_its_process_until_it_is_released(workdir: Path) -> None:
    with Lease(workdir) as lease:
        lease.take(same)
        holder = holder_in(workdir)
        assert holder is not None and holder.process == os.getpid() and not holder.gone()
        assert holder.started == process_start(os.getpid()) != ""
        before = holder.time
        lease.check_now()  # renews it
        holder = holder_in(workdir)
        assert holder is not None and holder.time > before
        (workdir / FILE).unlink()
        lease.check_now()  # somebody has removed it
        assert holder_in(workdir) is not None
    assert holder_in(workdir) is None


def test_a_text_is_replaced_only_by_who_has_seen_it(workdir: Path) -> None:
    first, second = open_versioned(workdir / "text"), open_versioned(workdir / "text")
    nothing = second.read()
    assert nothing[0] == ""
    assert first.swap(nothing[1], "a") and not second.swap(nothing[1], "b")
    text, version = second.read()
    assert text == "a" and second.swap(version, "c") and not first.swap(version, "")
    assert first.read()[0] == "c" and first.swap(first.read()[1], "") and first.read()[0] == ""


def test_one_of_many_starts_at_the_same_time_gets_a_stale_lease(workdir: Path) -> None:
    put(workdir, time=time.time() - 400)
    taken, refused = [], []

    def start() -> None:
        lease = Lease(workdir)
        try:
            lease.take(lambda: False)
            taken.append(lease)
        except ConfigError as e:
            refused.append(str(e))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1 and len(refused) == 5
    assert all(f"process {os.getpid()} on" in text for text in refused)
    taken[0].release()


def test_another_config_is_refused_at_once_and_the_message_names_who_trains(workdir: Path) -> None:
    put(workdir, process=77)
    with pytest.raises(ConfigError, match=r"process 77 on elsewhere \(since 20.* another config"):
        Lease(workdir).take(lambda: False)
    holder = holder_in(workdir)
    assert holder is not None and holder.process == 77


def test_the_same_config_waits_until_the_lease_is_released_or_stale(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    other, released = Lease(workdir), []
    other.take(same)

    def release() -> None:
        released.append(time.time())
        other.release()

    threading.Timer(0.2, release).start()
    with Lease(workdir) as lease:
        lease.take(same)
        holder = holder_in(workdir)
        assert holder is not None and holder.begun == holder.time > released[0]
    assert "trains there; waiting up to 300 s" in capsys.readouterr().err
    # A recreated host has another name, and the clock of the old one may have been ahead.
    monkeypatch.setattr(lease_lib, "STALE_SECONDS", 0.3)
    put(workdir, time=time.time() + 1000)
    with Lease(workdir) as lease:
        lease.take(lambda: None)
    put(workdir)
    began = time.time()
    with Lease(workdir) as lease:
        lease.take(same)
    assert time.time() - began >= 0.2


def test_a_process_that_was_suspended_does_not_take_a_removed_lease_again(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have taken over, trained and ended in the meantime."""
    with Lease(workdir) as lease:
        lease.take(same)
        (workdir / FILE).unlink()
        monkeypatch.setattr(lease_lib, "STALE_SECONDS", 0.0)
        with pytest.raises(TakenOverError, match="another process has taken over"):
            lease.check_now()
        assert holder_in(workdir) is None


@pytest.mark.parametrize("started", ["", "0"])
def test_a_process_that_is_gone_or_whose_number_is_used_again_is_not_waited_for(
    tmp_path: Path, started: str
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    pid = os.getpid() if started else child.pid
    here = dataclasses.replace(Holder.of_this_process(), process=pid, started=started or "1")
    assert here.gone()
    (tmp_path / FILE).write_text(json.dumps(dataclasses.asdict(here)))
    with Lease(tmp_path) as lease:
        lease.take(lambda: False)


def test_a_process_that_the_machine_hides_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc may show a user only the own processes (the mount option hidepid)."""

    def forbid(pid: int, number: int) -> None:
        raise PermissionError

    here = dataclasses.replace(Holder.of_this_process(), process=2**22 + 1)
    monkeypatch.setattr(lease_lib, "process_start", lambda pid: "")
    assert here.gone()
    monkeypatch.setattr(os, "kill", forbid)
    assert not here.gone()


def test_the_start_of_a_process_does_not_depend_on_language_and_time_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no /proc, `ps` prints the time in them, and another one would be gone."""
    ps = tmp_path / "ps"
    ps.write_text('#!/bin/sh\necho "$LC_ALL $TZ"\n')
    ps.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(processes, "PROC", tmp_path / "missing")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert process_start(1) == "C UTC"


def test_a_process_that_nobody_has_waited_for_counts_as_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert process_start(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(child.pid) == ""
    child.wait()


@pytest.mark.parametrize("text", ["{", "[]", '{"time": "now"}', "x", '{"host": 1}'])
def test_a_lease_of_another_version_counts_until_it_is_old(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match="another process trains another config"):
        Lease(tmp_path).take(lambda: False)
    monkeypatch.setattr(lease_lib, "STALE_SECONDS", 0.1)
    with Lease(tmp_path) as lease:
        lease.take(same)


def test_a_lane_and_its_run_do_not_train_at_the_same_time(tmp_path: Path) -> None:
    lane = tmp_path / "lanes" / "03"
    for first, second in ((tmp_path, lane), (lane, tmp_path)):
        with Lease(first) as lease:
            lease.take(same)
            with pytest.raises(ConfigError, match=f"trains in {first}, and lanes"):
                Lease(second, lease_lib.related(second)).take(same)
            assert not (second / FILE).exists()


def test_a_run_that_lost_its_lease_stops_without_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Loop._log

    def lose(self: Loop, end: int, metrics: Any) -> None:
        log(self, end, metrics)
        if end == 6:
            put(tmp_path)

    monkeypatch.setattr(Loop, "_log", lose)
    with pytest.raises(TakenOverError, match="elsewhere .* has taken over .* without saving"):
        run(tiny_config(steps=20, save__every=4), tmp_path)
    assert [p.name for p in (tmp_path / "latest").iterdir()] == ["4"]
    holder = holder_in(tmp_path)
    assert holder is not None and holder.host == "elsewhere"  # not released


def test_of_two_starts_without_locks_one_ends_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*args: Any, **kwargs: Any) -> Any:
        setup = make_setup(*args, **kwargs)
        put(tmp_path)
        return setup

    monkeypatch.setattr("flaxae.training.loop.make_setup", lose)
    with pytest.raises(TakenOverError, match="elsewhere"):
        run(tiny_config(steps=2), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_run_leaves_no_lease_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        run(tiny_config(steps=2, data__batch_size=7, mesh__fsdp=2), tmp_path)
    assert (tmp_path / "config.json").exists() and not (tmp_path / FILE).exists()


def test_two_runs_in_one_workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one is refused, whether it has the same config or another; nothing is doubled."""
    monkeypatch.setattr(lease_lib, "STALE_SECONDS", 3.0)
    monkeypatch.setattr(lease_lib, "RENEW_SECONDS", 0.05)
    log, training, go_on = Loop._log, threading.Event(), threading.Event()

    def wait(self: Loop, end: int, metrics: Any) -> None:
        log(self, end, metrics)
        training.set()
        assert go_on.wait(300)

    monkeypatch.setattr(Loop, "_log", wait)
    config = tiny_config(steps=4, save__every=2)
    first = threading.Thread(target=run, args=(config, tmp_path))
    first.start()
    assert training.wait(300)
    with pytest.raises(ConfigError, match=f"process {os.getpid()} on .* trains another config"):
        run(tiny_config(steps=4, optim__lr=0.5), tmp_path)
    with pytest.raises(ConfigError, match=f"process {os.getpid()} on .* still renews its lease"):
        run(config, tmp_path)
    go_on.set()
    first.join(300)
    assert [row["step"] for row in log_of(tmp_path) if row["split"] == "train"] == [1, 2, 3, 4]
    assert read_arrays(tmp_path)[2] == 4 and not (tmp_path / FILE).exists()


def test_sigterm_before_training_releases_the_lease(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from flaxae.storage.lease import Lease\n"
        "with Lease(Path(sys.argv[1])) as lease:\n"
        "    lease.take(lambda: True); print('taken', flush=True); time.sleep(300)"
    )
    child = start(["-c", code, str(tmp_path)])
    assert child.stdout is not None and child.stdout.readline() == "taken\n"
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGTERM and not (tmp_path / FILE).exists()
