"""Helpers of several test files: comparing runs, and starting processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxae.storage import checkpoint
from tests.xla import COMPILE_FAST

ROOT = Path(__file__).resolve().parents[1]


def log_of(workdir: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without wall-clock values."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def arrays_of(workdir: Path) -> dict[str, np.ndarray]:
    """Return path -> array of the latest checkpoint."""
    tree, _, _ = checkpoint.read_arrays(workdir)
    return flat(tree)


def flat(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves}


def assert_same(a: Any, b: Any, atol: float = 0.0) -> None:
    """Assert that two trees are equal, bit for bit or within atol."""
    a, b = (
        x
        if isinstance(x, dict) and x and isinstance(next(iter(x.values())), np.ndarray)
        else flat(x)
        for x in (a, b)
    )
    assert a.keys() == b.keys()
    for name in a:
        if atol:
            np.testing.assert_allclose(a[name], b[name], atol=atol, rtol=0, err_msg=name)
        else:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def environment(devices: int = 1, **extra: str) -> dict[str, str]:
    """Return a child's environment: its number of fake devices, the shared compilation cache."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    flags = (f"--xla_force_host_platform_device_count={devices}", *COMPILE_FAST)
    env |= {"XLA_FLAGS": " ".join(flags)}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    env |= {"JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"]}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return env | extra


def start(command: list[str], **kwargs: Any) -> subprocess.Popen:
    env = kwargs.pop("env", None) or environment()
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def start_tiny(options: dict[str, Any], **env: str) -> subprocess.Popen:
    devices = int(env.pop("devices", "1"))
    return start(["-m", "tests.tiny.main", json.dumps(options)], env=environment(devices, **env))


def start_pair(options: dict[str, Any], devices: int = 1) -> list[subprocess.Popen]:
    """Start the tiny family in two jax.distributed processes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return [
        start_tiny(
            options,
            devices=str(devices),
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]
