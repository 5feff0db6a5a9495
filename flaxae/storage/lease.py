"""The lease of a workdir: one run trains there at a time.

Process 0 of a run holds the file lease.json in the workdir and renews it every minute. The file
names the host, the process and the time (see `versioned` for how it is written). Commands that only
read a workdir take no lease.
"""

import contextlib
import dataclasses
import json
import math
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from flaxae.errors import ConfigError, UserError
from flaxae.storage import paths
from flaxae.storage.processes import machine, of_another_user, process_start
from flaxae.storage.versioned import open_versioned

FILE = "lease.json"
RENEW_SECONDS = 60.0
STALE_SECONDS = 300.0  # without a renewal, after which another process may take the lease
POLL_SECONDS = 1.0


class TakenOverError(UserError, RuntimeError):
    """Another process has taken the lease of the workdir; this one must not write there any more.

    Args:
        workdir: the run's folder.
        holder: the process that has the lease now.
    """

    def __init__(self, workdir: Path, holder: "Holder"):
        super().__init__(
            f"{workdir}: {holder} has taken over this run. This process had not renewed its lease "
            f"for {STALE_SECONDS:.0f} s (it was suspended or had no connection), or both started "
            "at the same moment. It stops without saving; the other one continues from the last "
            "checkpoint"
        )


@dataclasses.dataclass(frozen=True)
class Holder:
    """The content of a lease.

    Attributes:
        host: the host's name, to show.
        machine: identifies the boot of the host and its process table (see `machine`).
        process: the process's number.
        started: when the process started (see `process_start`): numbers are used again.
        id: a random id of the lease.
        begun: when the lease was taken, in seconds since 1970.
        time: when it was last renewed.
    """

    host: str
    machine: str
    process: int
    started: str
    id: str
    begun: float
    time: float

    @classmethod
    def of_this_process(cls) -> "Holder":
        """Return the holder that a lease of this process would have."""
        pid, now = os.getpid(), time.time()
        return cls(
            socket.gethostname(), machine(), pid, process_start(pid), uuid.uuid4().hex, now, now
        )

    @classmethod
    def read(cls, text: str) -> "Holder | None":
        """Return the holder that a lease's text names; None: there is no lease."""
        if not text:
            return None
        try:
            found = cls(**json.loads(text))
            valid = isinstance(found.process, int) and isinstance(found.begun + found.time, float)
        except (ValueError, TypeError):
            valid = False
        # One of another version counts until it has not changed for long enough.
        return found if valid else cls("", "", 0, "", text, math.inf, math.inf)

    def gone(self) -> bool:
        """Return True if the process ran on this machine and runs no more."""
        if self.machine != machine():
            return False
        start = process_start(self.process)
        return start != self.started and not (start == "" and of_another_user(self.process))

    def __str__(self) -> str:
        if not self.process:
            return "another process"
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.begun))
        return f"process {self.process} on {self.host} (since {begun})"


class Lease:
    """The lease of one workdir. Enter it, then call `take`; leaving it releases the lease.

    While it is entered, SIGTERM releases it too, unless the process has a handler of its own or is
    one of several.

    Args:
        workdir: the run's folder, created by `take`.
        related: folders that are written to together with it: nobody else may train in them.
    """

    def __init__(self, workdir: Path, related: Sequence[Path] = ()):
        self.workdir, self._related = workdir, related
        self._file = open_versioned(workdir / FILE)
        self._mine: Holder | None = None
        self._taken_by: Holder | None = None
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._handled = False

    def __enter__(self) -> "Lease":
        # JAX has a handler of its own in several processes, of which Python does not know.
        main = threading.current_thread() is threading.main_thread() and jax.process_count() == 1
        if main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._terminate)
            self._handled = True
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()
        if self._handled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def take(self, same: Callable[[], bool | None]) -> None:
        """Take the lease; if another process has it, wait until that one is gone or has ended.

        Args:
            same: returns True if this start continues the run in the workdir, False if it does
                not, None if that is not known yet. Only a start that continues it waits.

        Raises:
            ConfigError: if another process trains in the workdir.
        """
        mine = Holder.of_this_process()
        began, seen, since = time.monotonic(), "", 0.0
        announced, renewed = False, False
        while True:
            text, version = self._file.read()
            holder, clock = Holder.read(text), time.monotonic()
            if text != seen:
                renewed = bool(seen)
                seen, since = text, clock
            if holder is None or holder.id == mine.id or _stale(holder, clock - since):
                if holder is not None and holder.id == mine.id:
                    break  # the answer to a successful write was lost
                now = time.time()  # it may have waited for minutes
                mine = dataclasses.replace(mine, begun=now, time=now)
                if self._file.swap(version, _text(mine)):
                    break
                continue  # another start was faster
            if same() is False:
                raise ConfigError(
                    f"{self.workdir}: {holder} trains another config there. Use another --workdir, "
                    "or stop that process and start again"
                )
            if renewed and clock - began > STALE_SECONDS:
                raise ConfigError(
                    f"{self.workdir}: {holder} trains there and still renews its lease. Wait for "
                    "its end, or stop it, then start again; or use another --workdir"
                )
            if not announced:
                announced = True
                print(
                    f"{self.workdir}: {holder} trains there; waiting up to {STALE_SECONDS:.0f} s "
                    "for it to end",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(POLL_SECONDS)
        self._mine = mine
        for folder in self._related:
            other = Holder.read(open_versioned(folder / FILE).read()[0])
            if other is not None and not _stale(other, 0.0):
                self.release()
                raise ConfigError(
                    f"{self.workdir}: {other} trains in {folder}, and lanes are written "
                    "together. Wait for its end, or stop it; or use another --workdir"
                )
        threading.Thread(target=self._renew_regularly, name="lease", daemon=True).start()

    def check(self) -> None:
        """Raise TakenOverError if it is known that another process has taken the lease."""
        if self._taken_by is not None:
            raise TakenOverError(self.workdir, self._taken_by)

    def check_now(self) -> None:
        """Read the lease; raise TakenOverError if another process has taken it."""
        if self._mine is not None:
            self._renew()
        self.check()

    def release(self) -> None:
        """Remove the lease if this process has it."""
        self._closed.set()
        with self._lock, contextlib.suppress(Exception):  # it becomes stale if that fails
            mine, self._mine = self._mine, None
            if mine is None:
                return
            text, version = self._file.read()
            holder = Holder.read(text)
            if holder is not None and holder.id == mine.id:
                self._file.swap(version, "")

    def _renew_regularly(self) -> None:
        while not self._closed.wait(RENEW_SECONDS) and self._taken_by is None:
            self._renew()

    def _renew(self) -> None:
        """Write the present time, or note who has taken the lease."""
        with self._lock, contextlib.suppress(Exception):  # no connection: tried again later
            if self._mine is None:
                return
            text, version = self._file.read()
            holder = Holder.read(text)
            if holder is None and time.time() - self._mine.time >= STALE_SECONDS:
                holder = Holder.read("?")  # it may have trained and ended since
            if holder is not None and holder.id != self._mine.id:
                self._taken_by = holder
                return
            renewed = dataclasses.replace(self._mine, time=time.time())
            # Also if somebody has removed the file.
            if self._file.swap(version, _text(renewed)):
                self._mine = renewed

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Release the lease, then end by SIGTERM as without this handler."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._lock.acquire(timeout=5):  # else this thread itself or a write is in it
            self._lock.release()
            self.release()
        os.kill(os.getpid(), signal.SIGTERM)


def _text(holder: Holder) -> str:
    return json.dumps(dataclasses.asdict(holder), indent=2) + "\n"


def _stale(holder: Holder, unchanged: float) -> bool:
    """Return True if the holder is gone, or has not renewed its lease for too long.

    Args:
        holder: the holder.
        unchanged: for how many seconds this process has seen the same lease; clocks may differ.
    """
    return holder.gone() or max(time.time() - holder.time, unchanged) >= STALE_SECONDS


def related(workdir: Path) -> list[Path]:
    """Return the folders that a run with lanes writes to, if `workdir` is one of them."""
    if workdir.parent.name == "lanes":
        return [workdir.parent.parent]
    return paths.children(workdir / "lanes")
