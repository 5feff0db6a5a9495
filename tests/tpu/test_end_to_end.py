"""The real train.py on two workers of the fake TPU, interrupted by SIGTERM."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.tpu.world import HERE, ROOT, World, wait_for


def steps_of(workdir: Path) -> list[int]:
    log = workdir / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [row["step"] for row in map(json.loads, lines) if row["split"] == "train"]


@pytest.fixture
def real(tmp_path: Path):
    """Yield a checkout of flaxae with the tiny family; uses the real tmux if it is installed."""
    files = {name: ROOT / name for name in ("train.py", "flaxae")}
    files |= {"tiny": ROOT / "tests" / "tiny", "slow_tiny.py": HERE / "slow_tiny.py"}
    real_tmux = shutil.which("tmux")
    world = World(tmp_path, files, tmux=real_tmux is None)
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="tmux") as sockets:
        world.sockets = [f"{sockets}/{i}" for i in range(2)]
        for folder in world.sockets:
            os.mkdir(folder)
        yield world
        world.end()
        for folder in world.sockets if real_tmux else ():
            env = os.environ | {"TMUX_TMPDIR": folder}
            subprocess.run(["tmux", "kill-server"], env=env, capture_output=True)


@pytest.mark.slow
def test_a_run_of_two_workers_continues_after_sigterm(real: World, tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tmux = f"{Path(real.sockets[0]).parent}/{{worker}}"
    # On a TPU these come from the metadata server.
    env = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    env |= {"JAX_PROCESS_ID": "{worker}", "JAX_PLATFORMS": "cpu", "TMUX_TMPDIR": tmux}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    real.play(hosts=2, env=env)
    workdir = tmp_path / "a run"
    args = ["--config=slow_tiny.py", f"--workdir={workdir}"]
    launcher = real.start("--port", str(port), args=args, FLAXAE_TPU_TIME_UNIT="0.02")
    log = tmp_path / "launcher.log"
    wait_for(lambda: len(steps_of(workdir)) >= 5 or launcher.poll() is not None, 120)
    assert launcher.poll() is None, log.read_text()
    os.kill(int((real.home(1) / "pid").read_text()), signal.SIGTERM)
    assert launcher.wait(120) == 0, log.read_text()
    text = log.read_text()
    assert "train.py received SIGTERM and has saved (exit code 75)" in text
    assert text.count("Saved at step") == 1 and "The run in" in text and "is done: step 40" in text
    saved = int(text.split("Saved at step ")[1].split(".")[0])
    assert 5 <= saved < 40
    assert steps_of(workdir) == list(range(1, 41))
    for worker in (0, 1):
        assert (real.home(worker) / "exit").read_text().split()[:2] == ["2", "0"]
        assert (real.home(worker) / "logs" / "1.log").exists()
    assert real.count("create") == 1
