"""SIGTERM and Ctrl-C as a flag that the loop polls, in one process or several."""

import itertools
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from flaxae.errors import UserError

# Numbers of the calls of JAX's sync point: all processes stop one call after the largest number
# that any of them has passed. So each call passes the next number, which does not depend on
# `steps_per_call` or on earlier runs of this process.
_CALLS = itertools.count()
_ACTIVE: list["Preemption"] = []  # those that are entered, the innermost last
EXIT_CODES = {"sigterm": 75, "sigint": 130}


class Stopped(UserError):
    """A signal that ended a run before its first step; the same command continues."""


def stop_if_noticed(when: str) -> None:
    """Raise Stopped if the innermost `Preemption` has noticed a signal; nothing may be unsaved.

    Args:
        when: what the process did meanwhile, for the message.

    Raises:
        Stopped: with the exit code of a run that a signal stopped.
    """
    signal_name = _ACTIVE[-1].noticed if _ACTIVE else None
    if signal_name is not None:
        error = Stopped(f"{signal_name} while {when}; what is finished is kept: start it again")
        error.exit_code = EXIT_CODES[signal_name]
        raise error


class Preemption:
    """A context manager that notices SIGTERM and Ctrl-C; the loop calls `check` after every call.

    One process: Python signal handlers set a flag (a second Ctrl-C raises KeyboardInterrupt), and
    leaving the context restores the old handlers. Outside of the main thread Python allows no
    handlers, and nothing is noticed. Several processes: JAX's sync point makes all of them stop at
    the same step after any of them got SIGTERM; it works only after `jax.distributed.initialize`.
    Ctrl-C there has its usual effect.
    """

    def __init__(self) -> None:
        self._seen: str | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._notice)
        _ACTIVE.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _ACTIVE.remove(self)
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._old = {}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._seen == "sigint":
            raise KeyboardInterrupt
        self._seen = "sigterm" if number == signal.SIGTERM else "sigint"

    @property
    def noticed(self) -> str | None:
        """The signal that this process got, at once; None in several processes: they must agree."""
        return self._seen

    def check(self) -> str | None:
        """Return the signal to stop for, the same on all processes.

        All processes must call this after the same steps, and continue until the answer is not
        None.

        Returns:
            None, "sigterm" or "sigint".
        """
        if jax.process_count() > 1:
            stop = multihost_utils.reached_preemption_sync_point(next(_CALLS))
            return "sigterm" if stop else None
        return self._seen
