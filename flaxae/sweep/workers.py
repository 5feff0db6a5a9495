"""Calls side by side in processes of their own, each with its share of this machine's cores.

A small model's step is many small operations, which one core does nearly as fast as two (measured:
flaxae/models/looped/README.md).
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

PROGRAMS = "programs"  # beside the logs: what one call has compiled the others do not compile again
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60  # for a process that has to save, where this one ends early


class Call(NamedTuple):
    """What a process does.

    Attributes:
        name: shown when it has ended.
        function: of a module, taking `args`; both are pickled. It returns an exit code.
        args: its arguments.
        log: the file that gets what it prints.
    """

    name: str
    function: Callable[..., int]
    args: tuple[Any, ...]
    log: Path


class Ended(NamedTuple):
    """How a call ended: its index, exit code (negative: killed by that signal) and seconds."""

    index: int
    code: int
    seconds: float


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run_all(
    calls: Sequence[Call], jobs: int, ended: Callable[[Ended], None] = lambda _: None
) -> str | None:
    """Makes all calls, `jobs` at a time, in order, on the CPU.

    Each process keeps to its share of the cores, where the system can pin it. On SIGTERM or Ctrl-C
    no further call begins, those that run get SIGTERM, and it waits for them.

    Args:
        calls: what to do.
        jobs: how many at a time, at most as many as there are cores.
        ended: told of each call that has ended, in this process.

    Returns:
        None, or "sigterm" or "sigint" where it was told to stop.

    Raises:
        ConfigError: more jobs than cores, or none.
    """
    mine = cores()
    require(1 <= jobs <= len(mine), f"jobs={jobs}: this process may use {len(mine)} cores")
    jobs = min(jobs, max(len(calls), 1))  # a core for nobody would be left idle
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(calls))
    running: dict[int, tuple[int, Any, float]] = {}  # share of the cores -> index, process, start
    told = False
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
                if preemption.noticed and not told:
                    told = True
                    _stop(running)
                for share, (index, process, start) in list(running.items()):
                    if process.exitcode is not None:
                        del running[share]
                        ended(Ended(index, process.exitcode, time.monotonic() - start))
        finally:  # an error here, or a second Ctrl-C
            _stop(running)
            for _, process, _ in running.values():
                process.join(PATIENCE_SECONDS)
                process.kill()
    return preemption.noticed


def _stop(running: dict[int, tuple[int, Any, float]]) -> None:
    for _, process, _ in running.values():
        process.terminate()


def _work(call: Call, share: list[int]) -> None:
    """In the new process."""
    call.log.parent.mkdir(parents=True, exist_ok=True)
    with call.log.open("a") as log:  # what XLA prints too
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        if hasattr(os, "setsid"):
            os.setsid()  # a terminal's Ctrl-C reaches the parent only, which tells its children
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
    """A killed parent's children stop as it would have told them to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
