"""Several processes in one run: joining them, and waiting for each other."""

import contextlib
import glob
import importlib.util
import itertools
import os
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxae.errors import ConfigError
from flaxae.machine import libtpu, watchdog

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_BARRIERS = itertools.count()  # the name of a barrier is used once
JOIN, JOIN_SECONDS = "FLAXAE_JOIN_TIMEOUT", 300.0


def initialize() -> None:
    """Join the other processes of a run; do nothing if there is only one process.

    `train.py` calls this before any other use of JAX (afterwards it raises), so it also sets
    libtpu's flags. The processes are named by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, or by a cluster that JAX knows (SLURM, Open MPI, Cloud TPU). If not all of them
    have joined after FLAXAE_JOIN_TIMEOUT seconds (300; 0: no limit), the process ends with one
    message and exit code 69.

    Raises:
        ConfigError: if only some of the three variables are set, or they are not numbers; or a
            time-out is not a number of seconds.
    """
    libtpu.set_flags()
    watchdog.seconds(watchdog.STALL, 0)  # raises before others wait for this process
    wait = watchdog.seconds(JOIN, JOIN_SECONDS)
    given = [name for name in VARIABLES if os.environ.get(name)]
    if given:
        missing = [name for name in VARIABLES if name not in given]
        if missing:
            raise ConfigError(f"{', '.join(given)} is set, but {', '.join(missing)} is not")
        address, *numbers = (os.environ[name] for name in VARIABLES)
        if not all(number.isdigit() for number in numbers):
            raise ConfigError(f"{VARIABLES[1]} and {VARIABLES[2]} must be numbers, not {numbers}")
        _join(wait, address, int(numbers[0]), int(numbers[1]))
    elif _scheduler():
        _join(wait)
    elif _tpu_vm():
        try:
            _join(wait)
        except ValueError as e:
            # Else it is one host that belongs to no cluster.
            if not str(e).startswith("coordinator_address should be defined"):
                raise


def _join(wait: float, *processes: Any) -> None:
    """Join with our own time limit: JAX's ends a process by abort(), with a page of addresses."""
    timer = threading.Timer(wait, _end_incomplete, [wait])
    timer.daemon = True
    if wait:
        timer.start()
    try:
        limit = int(wait or watchdog.FOREVER) + 60
        jax.distributed.initialize(*processes, initialization_timeout=limit)
    finally:
        timer.cancel()


def _end_incomplete(wait: float) -> None:
    """End this process: not all processes have joined in time."""
    from jax._src.distributed import global_state as state

    address = state.coordinator_address or "its coordinator (not found yet)"
    joined = connections(int(address.rsplit(":", 1)[1])) if state.service is not None else 0
    total = state.num_processes
    if joined:
        what = f"{min(joined, total)} of {total} processes have joined at"
    else:
        what = f"process {state.process_id} of {total} has waited for the others at"
    watchdog.stop(
        f"{what} {address} in {wait:g} s. Start all of them with the same JAX_COORDINATOR_ADDRESS, "
        "which all can reach (a firewall may be in between), and JAX_NUM_PROCESSES; "
        f"{JOIN} sets how long to wait"
    )


def connections(port: int) -> int:
    """Return the number of open connections to a port of this machine; 0 if it is unknown."""
    count = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table) as f:
            rows = [line.split() for line in f.readlines()[1:]]
            count += sum(int(r[1].split(":")[-1], 16) == port and r[3] == "01" for r in rows)
    return count


def _scheduler() -> bool:
    """Return True if SLURM or Open MPI started this as one of several processes."""
    environment = os.environ
    if environment.get("SLURM_STEP_NODELIST"):  # not set in the shell of an interactive allocation
        return environment.get("SLURM_NTASKS", "1") != "1"
    return environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1"


def _tpu_vm() -> bool:
    """Return True if this process will use this machine's TPUs; JAX finds the other hosts."""
    if os.environ.get("JAX_PLATFORMS", "tpu").split(",")[0] not in ("", "tpu"):
        return False
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def is_main() -> bool:
    """Return True if this process writes logs, configs and figures."""
    return jax.process_index() == 0


def sync(name: str) -> None:
    """Wait until all processes have called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def wait_for_main(name: str) -> None:
    """Wait until all processes have called this with the same name, up to a day.

    It is for what process 0 does alone: a computation of all processes waits for minutes only.
    """
    if jax.process_count() > 1:
        from jax._src.distributed import global_state  # as JAX's own multihost_utils

        client: Any = global_state.client
        client.wait_at_barrier(f"{name}_{next(_BARRIERS)}", 86_400_000)


def everywhere(ok: bool) -> bool:
    """Return True if `ok` is true on all processes."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))
