"""Ends a process that would otherwise wait forever, with one message.

A computation of several processes waits for all of them. If one was killed, has failed or
hangs, the others wait, or JAX ends them with a page of addresses. The watchdog ends them with one
message, by `os._exit`: a normal exit would wait for the other processes once more.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from flaxae.errors import ConfigError, UserError, report

GONE = 69  # EX_UNAVAILABLE: this process is fine, another one is gone or there is no progress
STALL = "FLAXAE_STALL_TIMEOUT"
STALL_SECONDS = 600.0  # the default for several processes; a single one waits for no other
FOREVER = 10**6  # seconds
SLOW = 10  # the limit for compiling, reading and saving, in multiples of the limit for a step
# The number of calls of `at`, a slow one and those after it, that have the longer limit: a step's
# result is read in the step after it, and the batch is read between them.
AFTER = 4
GRACE = 2.0  # seconds to wait for an error of this process, which explains more than others'
LINGER = 5.0  # seconds that process 0 waits before it ends, and with it the coordination service
ENDED, BEAT = "flaxae_ended/", "flaxae_beat/"  # keys in the coordination service
AGAIN = (
    "Start all processes again with the same command: the run continues from its last checkpoint"
)
# How JAX, its collectives and its coordination service report that a process is gone.
LOST = re.compile(
    r"gloo|heartbeat|coordination|UNAVAILABLE|barrier|socket closed|connection (reset|closed|refus)"
    r"|another task|remote task",
    re.IGNORECASE,
)
# Statuses of failures of this process itself, whose texts may contain the same words: a message
# about memory names operations such as optimization_barrier.
OWN = re.compile("RESOURCE_EXHAUSTED|INVALID_ARGUMENT|UNIMPLEMENTED|OUT_OF_RANGE")


def seconds(name: str, default: float) -> float:
    """Read a number of seconds from an environment variable.

    Args:
        name: the variable.
        default: the value if the variable is not set, or empty.

    Raises:
        ConfigError: if the value is not a number, or negative.
    """
    text = os.environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= FOREVER:
        raise ConfigError(f"{name}={text} is not a number of seconds; 0 waits forever")
    return value


def stop(message: str, code: int = GONE, linger: float = 0.0) -> NoReturn:
    """Print an error and end the process at once, after `linger` seconds."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        if message:
            print(f"error: {message}", file=sys.stderr)
        sys.stderr.flush()
    time.sleep(linger)
    os._exit(code)


class Watchdog:
    """A context manager that watches a run: `at` receives its progress, `failed` its errors.

    A single process is watched only if FLAXAE_STALL_TIMEOUT is set, and only for progress.

    Raises:
        ConfigError: if FLAXAE_STALL_TIMEOUT is not a number of seconds.
    """

    def __init__(self) -> None:
        self._count, self._index = jax.process_count(), jax.process_index()
        self._limit = seconds(STALL, STALL_SECONDS if self._count > 1 else 0.0)
        self._patience = AFTER
        self._doing: tuple[str, bool, float] = ("starting", True, time.monotonic())
        self._reasons: dict[int, str] = {}  # process -> why it ended
        self._closed, self._ending = threading.Event(), threading.Lock()
        self._abort_handler: _AbortHandler | None = None

    def at(self, doing: str, slow: bool = False) -> None:
        """Report progress.

        Args:
            doing: description of what comes next.
            slow: whether that may take SLOW times as long as a plain step: it compiles, reads or
                saves. The step after it may too: it waits for other processes that do the same.
        """
        self._patience = AFTER if slow else max(self._patience - 1, 0)
        self._doing = (doing, self._patience > 0, time.monotonic())

    def __enter__(self) -> "Watchdog":
        self.at("starting", slow=True)
        if self._limit:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        if self._count > 1:
            threading.Thread(target=self._beat, name="watchdog_beat", daemon=True).start()
            self._abort_handler = _AbortHandler(self._aborted)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self.failed(error)
        self._closed.set()
        if self._abort_handler is not None:
            self._abort_handler.close()

    def failed(self, error: BaseException) -> None:
        """End one of several processes and report why to the others; do nothing if it is alone."""
        if self._count == 1:
            return
        self._claim_end()
        lost = _lost(error)
        if lost:
            self._read_reasons()
            stop(f"{self._others_gone(lost)}. {AGAIN}")
        code = _report(error)
        last = " ".join(str(error).split())
        self._announce(f"{type(error).__name__}: {last}"[:500])
        stop("", code, LINGER if self._index == 0 else 0.0)

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit / 10)):
            doing, slow, since = self._doing
            limit = self._limit * (SLOW if slow else 1)
            if time.monotonic() - since > limit:
                self._claim_end()
                reason = f"no progress for {limit:.0f} s at: {doing}"
                peers = self._peers()
                self._announce(reason)
                stop(
                    f"{self._name()}{reason}. {peers}{AGAIN}. If this may take longer, set {STALL} "
                    f"(now {self._limit:g} seconds, {SLOW} times that for compiling, reading and "
                    "saving; 0: no limit)",
                    linger=LINGER if self._index == 0 and self._count > 1 else 0.0,
                )

    def _beat(self) -> None:
        """Report regularly that this process is alive; end it if another one has ended."""
        pause = max(1.0, self._count / 32)  # so that many processes do not flood the service
        while not self._closed.wait(pause):
            with contextlib.suppress(Exception):  # JAX itself notices a failing service
                now = f"{time.time():.0f} {self._doing[0]}"
                _client().key_value_set(f"{BEAT}{self._index}", now, allow_overwrite=True)
                self._read_reasons()
            if self._reasons and not self._closed.wait(GRACE):
                self._claim_end()
                stop(f"{self._others_gone('')}. {AGAIN}")

    def _aborted(self) -> None:
        """End this process with our message if the coordination service is gone."""
        answer = _ask(lambda: _client().key_value_dir_get(ENDED))
        if answer is None:
            self._claim_end()
            stop(f"{self._others_gone('the coordination service does not answer')}. {AGAIN}")

    def _claim_end(self) -> None:
        """Let one thread print the last message; others that come here wait for the end."""
        if not self._ending.acquire(blocking=False):
            time.sleep(60)

    def _announce(self, text: str) -> None:
        key = f"{ENDED}{self._index}"
        if self._count > 1:
            _ask(lambda: _client().key_value_set(key, text, allow_overwrite=True))

    def _read_reasons(self) -> None:
        """Read why other processes have ended: they announce it before."""
        for key, text in _ask(lambda: _client().key_value_dir_get(ENDED)) or ():
            self._reasons[int(key.rsplit("/", 1)[1])] = text

    def _name(self) -> str:
        return f"process {self._index} of {self._count}: " if self._count > 1 else ""

    def _others_gone(self, reason: str) -> str:
        ends = "; ".join(
            f"process {i} ended with {why}" for i, why in sorted(self._reasons.items())
        )
        ends = (
            ends
            or "another process of this run is gone (killed, preempted or out of memory) or hangs"
        )
        reason = " ".join(reason.split())
        return f"{self._name()}{ends}" + (f" [{reason[:200]}]" if reason else "")

    def _peers(self) -> str:
        """Return a message with the last reports of the other processes."""
        if self._count == 1:
            return ""
        beats = _ask(lambda: _client().key_value_dir_get(BEAT))
        if beats is None:
            return "Process 0, the coordinator, does not answer. "
        now, lines = time.time(), []
        for key, text in sorted(beats):
            at, doing = text.split(" ", 1)
            index = int(key.rsplit("/", 1)[1])
            if index != self._index:
                lines.append(f"process {index}, {now - float(at):.0f} s ago, at: {doing}")
        return f"The others last reported: {'; '.join(lines) or 'nothing'}. "


def _client() -> Any:
    from jax._src import distributed  # as JAX's own multihost_utils and Orbax do

    return distributed.global_state.client


def _ask(question: Callable[[], Any], patience: float = 3.0) -> Any:
    """Return the answer of the coordination service; None if none comes in time."""
    answers: list[Any] = []

    def ask() -> None:
        with contextlib.suppress(Exception):
            answers.append(question() or ())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return answers[0] if answers else None


def _lost(error: BaseException | None) -> str:
    """Return the message of JAX that another process is gone; "" for any other error."""
    while error is not None:
        text = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError) and not OWN.match(text):
            if LOST.search(text):
                return text
        error = error.__cause__ or error.__context__
    return ""


def _report(error: BaseException) -> int:
    """Print an error as the command would; return the command's exit code."""
    if isinstance(error, UserError):
        return report(error)
    if isinstance(error, KeyboardInterrupt):
        return 130
    traceback.print_exception(error)
    return 1


class _AbortHandler:
    """Calls a function when this process is aborted, before it ends.

    JAX's client calls abort() in its own thread if its service finds another process gone, or is
    gone itself. Python's signal handlers run too late for that: this one is set by the C library.

    Args:
        then: the function.
    """

    def __init__(self, then: Callable[[], None]):
        libc = ctypes.CDLL(None)
        libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
        self._signal = libc.signal
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: then())
        self._old = self._signal(signal.SIGABRT, ctypes.cast(self._callback, ctypes.c_void_p))

    def close(self) -> None:
        self._signal(signal.SIGABRT, self._old)
