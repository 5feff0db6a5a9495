"""Function calls side by side, each in its own process on its share of this machine's cores.

A small model's step is many small operations, which one core does nearly as fast as two (measured:
docs/lab_notes/2026-11-26.md).
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

from flaxae.errors import require
from flaxae.machine.compile_cache import keep_programs
from flaxae.machine.preemption import Preemption

PROGRAMS = "programs"  # folder next to the logs: the compiled programs, which all calls share
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60  # for a process that has to save, if this one ends early


class Call(NamedTuple):
    """A call of a function in its own process.

    Attributes:
        name: the name to show when the call has ended.
        function: a module's function, which returns an exit code; it and `args` are pickled.
        args: its arguments.
        log: the file that receives the call's output.
    """

    name: str
    function: Callable[..., int]
    args: tuple[Any, ...]
    log: Path


class Exit(NamedTuple):
    """The end of a call: its index, exit code (negative: killed by that signal) and seconds."""

    index: int
    code: int
    seconds: float


def cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run_all(
    calls: Sequence[Call], jobs: int, on_exit: Callable[[Exit], None] = lambda _: None
) -> str | None:
    """Make all calls on the CPU, in order, `jobs` at a time.

    Each process uses only its share of the cores, if the system can pin it. On SIGTERM or Ctrl-C no
    further call begins, the running ones get SIGTERM, and this function waits for them.

    Args:
        calls: the calls.
        jobs: the number of calls at a time, up to the number of cores.
        on_exit: called in this process after each call.

    Returns:
        None, or "sigterm" or "sigint" after a signal.

    Raises:
        ConfigError: if there are more jobs than cores, or no jobs.
    """
    mine = cores()
    require(1 <= jobs <= len(mine), f"jobs={jobs}: this process may use {len(mine)} cores")
    jobs = min(jobs, max(len(calls), 1))  # more shares than calls would leave cores idle
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(calls))
    running: dict[int, tuple[int, Any, float]] = {}  # share of the cores -> index, process, start
    stopping = False
    with Preemption() as preemption:
        try:
            while running or (waiting and not preemption.noticed):
                for share in set(range(jobs)) - set(running):
                    if waiting and not preemption.noticed:
                        index, call = waiting.pop(0)
                        process = context.Process(target=_work, args=(call, mine[share::jobs]))
                        process.start()
                        running[share] = index, process, time.monotonic()
                connection.wait([p.sentinel for _, p, _ in running.values()], POLL_SECONDS)
                if preemption.noticed and not stopping:
                    stopping = True
                    _stop(running)
                for share, (index, process, start) in list(running.items()):
                    if process.exitcode is not None:
                        del running[share]
                        on_exit(Exit(index, process.exitcode, time.monotonic() - start))
        finally:  # after an error in this process, or a second Ctrl-C
            _stop(running)
            for _, process, _ in running.values():
                process.join(PATIENCE_SECONDS)
                process.kill()
    return preemption.noticed


def _stop(running: dict[int, tuple[int, Any, float]]) -> None:
    """Send SIGTERM to all running processes."""
    for _, process, _ in running.values():
        process.terminate()


def _work(call: Call, share: list[int]) -> None:
    """Make a call, in the new process."""
    call.log.parent.mkdir(parents=True, exist_ok=True)
    with call.log.open("a") as log:  # descriptors, so that XLA's own output goes there too
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        if hasattr(os, "setsid"):
            os.setsid()  # a terminal's Ctrl-C reaches the parent only, which stops its children
        threading.Thread(target=_follow_parent, daemon=True).start()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, share)
        import jax

        jax.config.update("jax_platforms", "cpu")
        keep_programs(call.log.parent / PROGRAMS)
        sys.exit(call.function(*call.args))
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _follow_parent() -> None:
    """End this process as by its parent's SIGTERM when the parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
