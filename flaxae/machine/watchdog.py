"""Ends a process that would otherwise wait for ever, with one message.

What several processes compute together waits for all of them. Where one was killed, has failed or
hangs, the others wait, or JAX ends them with a page of addresses. Here they end with one message,
by `os._exit`: the usual way out waits for the other processes once more.
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

GONE = 69  # EX_UNAVAILABLE: this process is well, another one is gone or nothing moves
STALL = "FLAXAE_STALL_TIMEOUT"
STALL_SECONDS = 600.0  # in several processes; one alone waits for nobody
FOREVER = 10**6  # seconds
SLOW = 10  # how many times longer than a step whatever is no step may take
AFTER = 4  # a step's result is read in the step after it, and between them comes the batch
GRACE = 2.0  # for an error of this process's own, which says more than another's
LINGER = 5.0  # of process 0: with it ends the service by which it tells the others why
ENDED, BEAT = "flaxae_ended/", "flaxae_beat/"  # keys that processes tell each other by
AGAIN = "Start all processes again by the same command: the run goes on from its last checkpoint"
# How JAX, its collectives and its coordination service say that a process is gone.
LOST = re.compile(
    r"gloo|heartbeat|coordination|UNAVAILABLE|barrier|socket closed|connection (reset|closed|refus)"
    r"|another task|remote task",
    re.IGNORECASE,
)


def seconds(name: str, default: float) -> float:
    """A number of seconds from an environment variable.

    Args:
        name: of the variable.
        default: where it is not set, or empty.

    Raises:
        ConfigError: it is not a number, or negative.
    """
    text = os.environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= FOREVER:
        raise ConfigError(f"{name}={text} is not a number of seconds; 0 waits for ever")
    return value


def stop(message: str, code: int = GONE, linger: float = 0.0) -> NoReturn:
    """Prints an error and ends the process at once."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        if message:
            print(f"error: {message}", file=sys.stderr)
        sys.stderr.flush()
    time.sleep(linger)
    os._exit(code)


class Watchdog:
    """Watches a run while it is entered. The loop says what it does by `at`, errors by `failed`.

    One process: only where FLAXAE_STALL_TIMEOUT is set, and only whether anything moves.
    """

    def __init__(self) -> None:
        """Raises ConfigError where FLAXAE_STALL_TIMEOUT is no number of seconds."""
        self._count, self._index = jax.process_count(), jax.process_index()
        self._limit = seconds(STALL, STALL_SECONDS if self._count > 1 else 0.0)
        self._patience = AFTER
        self._doing: tuple[str, bool, float] = ("starting", True, time.monotonic())
        self._told: dict[int, str] = {}  # process -> why it ended
        self._over, self._ending = threading.Event(), threading.Lock()
        self._aborts: Any = None

    def at(self, doing: str, slow: bool = False) -> None:
        """Something has moved.

        Args:
            doing: what comes next, in words.
            slow: it is no plain step and may take ten times longer: it compiles, reads, saves. So
                may the step after it: it waits for other processes that do the same.
        """
        self._patience = AFTER if slow else max(self._patience - 1, 0)
        self._doing = (doing, self._patience > 0, time.monotonic())

    def __enter__(self) -> "Watchdog":
        self.at("starting", slow=True)
        if self._limit:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        if self._count > 1:
            threading.Thread(target=self._talk, name="watchdog_talk", daemon=True).start()
            self._aborts = _Aborts(self._aborted)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self.failed(error)
        self._over.set()
        if self._aborts is not None:
            self._aborts.close()

    def failed(self, error: BaseException) -> None:
        """Ends one of several processes, and tells the others why; returns where there is one."""
        if self._count == 1:
            return
        self._ours()
        lost = _lost(error)
        if lost:
            self._listen()
            stop(f"{self._others_gone(lost)}. {AGAIN}")
        code = _report(error)
        last = " ".join(str(error).split())
        self._tell(f"{type(error).__name__}: {last}"[:500])
        stop("", code, LINGER if self._index == 0 else 0.0)

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._limit / 10)):
            doing, slow, since = self._doing
            limit = self._limit * (SLOW if slow else 1)
            if time.monotonic() - since > limit:
                self._ours()
                words = f"nothing has moved for {limit:.0f} s at: {doing}"
                peers = self._peers()
                self._tell(words)
                stop(
                    f"{self._name()}{words}. {peers}{AGAIN}. Where this may take longer, set "
                    f"{STALL} (now {self._limit:g} seconds, {SLOW} times that for what is no "
                    "step; 0: no limit)",
                    linger=LINGER if self._index == 0 and self._count > 1 else 0.0,
                )

    def _talk(self) -> None:
        """Says that this process lives; listens to what others end of."""
        pause = max(1.0, self._count / 32)  # so that many processes do not flood the service
        while not self._over.wait(pause):
            with contextlib.suppress(Exception):  # whatever ails the service, JAX notices
                now = f"{time.time():.0f} {self._doing[0]}"
                _client().key_value_set(f"{BEAT}{self._index}", now, allow_overwrite=True)
                self._listen()
            if self._told and not self._over.wait(GRACE):
                self._ours()
                stop(f"{self._others_gone('')}. {AGAIN}")

    def _aborted(self) -> None:
        """JAX calls abort() where its service finds another process gone, or is gone itself."""
        answer = _ask(lambda: _client().key_value_dir_get(ENDED))
        if answer is None:
            self._ours()
            stop(f"{self._others_gone('the coordination service gives no answer')}. {AGAIN}")

    def _ours(self) -> None:
        """One thread says the last word; others that find the same wait for the end."""
        if not self._ending.acquire(blocking=False):
            time.sleep(60)

    def _tell(self, text: str) -> None:
        key = f"{ENDED}{self._index}"
        if self._count > 1:
            _ask(lambda: _client().key_value_set(key, text, allow_overwrite=True))

    def _listen(self) -> None:
        """Who ends by an error says so before it ends."""
        for key, text in _ask(lambda: _client().key_value_dir_get(ENDED)) or ():
            self._told[int(key.rsplit("/", 1)[1])] = text

    def _name(self) -> str:
        return f"process {self._index} of {self._count}: " if self._count > 1 else ""

    def _others_gone(self, reason: str) -> str:
        told = "; ".join(f"process {i} ended with {why}" for i, why in sorted(self._told.items()))
        told = (
            told
            or "another process of this run is gone (killed, preempted or out of memory) or hangs"
        )
        reason = " ".join(reason.split())
        return f"{self._name()}{told}" + (f" [{reason[:200]}]" if reason else "")

    def _peers(self) -> str:
        """What the others last said."""
        if self._count == 1:
            return ""
        beats = _ask(lambda: _client().key_value_dir_get(BEAT))
        if beats is None:
            return "Process 0, the coordinator, gives no answer. "
        now, lines = time.time(), []
        for key, text in sorted(beats):
            at, doing = text.split(" ", 1)
            index = int(key.rsplit("/", 1)[1])
            if index != self._index:
                lines.append(f"process {index}, heard of {now - float(at):.0f} s ago, at: {doing}")
        return f"The others: {'; '.join(lines) or 'never heard of'}. "


def _client() -> Any:
    from jax._src import distributed  # as JAX's own multihost_utils and Orbax do

    return distributed.global_state.client


def _ask(question: Callable[[], Any], patience: float = 3.0) -> Any:
    """The answer of the coordination service; None where none comes in time."""
    answers: list[Any] = []

    def ask() -> None:
        with contextlib.suppress(Exception):
            answers.append(question() or ())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return answers[0] if answers else None


def _lost(error: BaseException | None) -> str:
    """The message by which JAX says that another process is gone; "" where it is no such error."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and LOST.search(str(error)):
            return str(error)
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


class _Aborts:
    """Calls a function where this process is aborted, before it ends.

    JAX's client ends the process from a thread of its own, by abort(). Python's own signal handlers
    run too late for that, so this one is set by the C library.
    """

    def __init__(self, then: Callable[[], None]):
        libc = ctypes.CDLL(None)
        libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
        self._signal = libc.signal
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: then())
        self._old = self._signal(signal.SIGABRT, ctypes.cast(self._callback, ctypes.c_void_p))

    def close(self) -> None:
        self._signal(signal.SIGABRT, self._old)
