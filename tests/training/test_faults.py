"""The other process if one of two gets a signal, is killed, hangs or fails."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flaxae.errors import ConfigError
from flaxae.machine import watchdog
from tests.helpers import arrays_of, assert_same, environment, log_of, start, start_pair, start_tiny

BOUND = 60  # seconds within which a process must end; it takes far less
RUN = {"steps": 40, "save__every": 4, "accumulate": 2, "optim__ema": 0.9, "eval__every": 0}
Pair = list[subprocess.Popen]


@contextmanager
def pair_of(workdir: Path, **options: Any) -> Iterator[Pair]:
    """Start two processes; kill them at the end, also after an error."""
    overrides = RUN | options.pop("overrides", {})
    pair = start_pair({"workdir": str(workdir), "overrides": overrides, **options})
    try:
        yield pair
    finally:
        for child in pair:
            child.kill()
            child.wait()


def end_of(child: subprocess.Popen, code: int) -> str:
    """Return the only message of a process that ends with this code, without a traceback."""
    _, err = child.communicate(timeout=BOUND)
    assert child.returncode == code, err[-3000:]
    assert "Traceback" not in err, err[-3000:]
    messages = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1 and err.rstrip().endswith(messages[0]), err[-3000:]
    return messages[0]


def wait_for(path: Path, pair: Pair) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline and all(p.poll() is None for p in pair), path
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_whose_processes_die_in_turn_is_bit_exact(tmp_path: Path) -> None:
    whole = start_tiny({"workdir": str(tmp_path / "whole"), "overrides": RUN}, devices="2")
    assert whole.wait(180) == 0, whole.communicate()[1][-2000:]
    workdir = tmp_path / "run"

    with pair_of(workdir, slow=0.05) as pair:  # process 0 gets SIGTERM
        wait_for(workdir / "latest" / "4", pair)
        pair[0].send_signal(signal.SIGTERM)
        assert [child.wait(BOUND) for child in pair] == [75, 75]
    saved = max(int(p.name) for p in (workdir / "latest").iterdir())
    assert log_of(workdir)[-1]["step"] == saved < 30

    with pair_of(workdir, only=[1, {"die_at": 33}]) as pair:  # process 1 is killed
        message = end_of(pair[0], watchdog.GONE)
        assert "process 0 of 2: another process of this run is gone" in message
        assert "same command" in message and pair[1].wait(BOUND) == -signal.SIGKILL

    with pair_of(workdir, only=[0, {"die_at": 37}]) as pair:  # the coordinator is killed
        message = end_of(pair[1], watchdog.GONE)
        assert "process 1 of 2: another process of this run is gone" in message
        assert pair[0].wait(BOUND) == -signal.SIGKILL

    with pair_of(workdir) as pair:
        assert [child.wait(180) for child in pair] == [0, 0]
    assert_same(arrays_of(workdir), arrays_of(tmp_path / "whole"))
    assert log_of(workdir) == log_of(tmp_path / "whole")


def test_a_stopped_process_ends_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(watchdog.STALL, "4")
    with pair_of(tmp_path, overrides={"save__every": 10}, only=[1, {"stop_at": 15}]) as pair:
        message = end_of(pair[0], watchdog.GONE)
    assert "no progress for 4 s at: step 1" in message and watchdog.STALL in message
    assert "The others last reported: process 1, " in message
    assert any((tmp_path / "latest").iterdir())


def test_a_batch_that_never_arrives_ends_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(watchdog.STALL, "4")
    with pair_of(tmp_path, overrides={"save__every": 10}, only=[1, {"hang_at": 15}]) as pair:
        hanging = end_of(pair[1], watchdog.GONE)
        waiting = end_of(pair[0], watchdog.GONE)
    # Either its own clock notices first, or the message of the other process.
    assert "at: the batch of step 16" in hanging or "process 0 ended with" in hanging
    assert "process 1" in waiting and "the batch of step 16" in waiting


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a new file system, if this user may."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if sys.platform != "linux" or not shutil.which("mount"):
        pytest.skip("needs Linux' mount")
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_both_report_a_file_system_that_became_read_only(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with mounted(folder):
        workdir, overrides = folder / "run", {"log__every": 1000, "steps": 4000, "save__every": 10}
        with pair_of(workdir, overrides=overrides, slow=0.1) as pair:
            wait_for(workdir / "latest" / "10", pair)
            remount = ["mount", "-o", "remount,ro", str(folder)]
            deadline = time.monotonic() + 30
            while subprocess.run(remount, capture_output=True).returncode:  # a file is open
                assert time.monotonic() < deadline
            messages = [end_of(pair[0], 2), end_of(pair[1], watchdog.GONE)]
        assert (workdir / "latest" / "10").is_dir()
    assert all("Read-only file system" in message for message in messages), messages
    assert "process 1 of 2: process 0 ended with CheckpointError" in messages[1]
    assert all("same command" in message for message in messages)


@pytest.mark.slow
def test_both_report_a_checkpoint_folder_that_is_gone(tmp_path: Path) -> None:
    overrides = {"steps": 4000, "save__every": 10}
    with pair_of(tmp_path, overrides=overrides, slow=0.1) as pair:
        wait_for(tmp_path / "latest" / "10", pair)
        time.sleep(0.3)  # halfway to the next save
        (tmp_path / "latest").rename(tmp_path / "moved")
        (tmp_path / "latest").write_text("not a folder")
        messages = [end_of(child, 2) for child in pair]
    assert all("latest: step 10 was saved, but cannot be read back" in m for m in messages)
    assert (tmp_path / "moved" / "10").is_dir()


JOIN = (
    "import sys; from flaxae import command; from flaxae.machine import distributed; "
    "sys.exit(command.run_main(lambda _: {}))"
)


def test_a_process_that_never_joins_ends_the_others() -> None:
    code = JOIN.format("distributed.initialize()")
    children = []
    for i in range(2):
        env = environment(
            JAX_COORDINATOR_ADDRESS="127.0.0.1:29471",
            JAX_NUM_PROCESSES="3",
            JAX_PROCESS_ID=str(i),
            FLAXAE_JOIN_TIMEOUT=str(6 + i),
        )
        children.append(start(["-c", code], env=env))
    first, second = (end_of(child, watchdog.GONE) for child in children)
    assert "2 of 3 processes have joined at 127.0.0.1:29471 in 6 s" in first
    assert "process 1 of 3 has waited" in second and "FLAXAE_JOIN_TIMEOUT" in second


WATCHED = """
import sys, time, os
from flaxae.machine.watchdog import Watchdog
with Watchdog() as dog:
    for i in range(12):
        dog.at(f"step {i}")
        time.sleep(0.25)
    dog.at("an evaluation", slow=True)
    time.sleep(2)
    for i in range(12, 20):
        dog.at(f"step {i}")
    time.sleep(60)
"""


def test_a_single_process_is_watched_if_the_variable_is_set() -> None:
    child = start(["-c", WATCHED], env=environment(FLAXAE_STALL_TIMEOUT="1"))
    message = end_of(child, watchdog.GONE)
    assert message.startswith("error: no progress for 1 s at: step 19. Start all")


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_time_out_that_is_not_a_number_is_an_error(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(watchdog.STALL, text)
    with pytest.raises(ConfigError, match=f"{watchdog.STALL}={text} is not a number of seconds"):
        watchdog.Watchdog()


def test_in_a_single_process_errors_are_raised_as_usual() -> None:
    with pytest.raises(RuntimeError, match="its own"), watchdog.Watchdog() as dog:
        assert not dog.failed(RuntimeError("returns"))
        raise RuntimeError("its own")
