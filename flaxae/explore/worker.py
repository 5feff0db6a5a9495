"""Device work one job at a time; what a slider asked for before its last move is dropped."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from flaxae.errors import ConfigError

LIMIT = 64


class Busy(ConfigError):
    """Too much waits already."""


class _Job(NamedTuple):
    key: Any
    call: Callable[[], Any]
    future: Future


class Worker:
    """A thread with a bounded queue.

    A job with a key takes the place of the waiting one of the same key, whose future is cancelled:
    it is never answered late, and its owner loses no place in the queue.
    """

    def __init__(self, limit: int = LIMIT):
        """Starts the thread.

        Args:
            limit: of jobs that wait.
        """
        self.limit, self.dropped = limit, 0
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="flaxae-explore", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Any], key: Any = None) -> Future:
        """Queues a job.

        Args:
            call: the work.
            key: whose it is and of what, such as (session, "slider"); None: it is never dropped.

        Returns:
            Its future; cancelled where a later job of its key overtook it.

        Raises:
            Busy: the queue is full.
        """
        job = _Job(key, call, Future())
        with self._changed:
            if self._closed:
                raise Busy("the explorer is shutting down")
            for i, waiting in enumerate(self._jobs):
                if key is not None and waiting.key == key:
                    self._jobs[i] = job
                    waiting.future.cancel()
                    self.dropped += 1
                    return job.future
            if len(self._jobs) >= self.limit:
                raise Busy(f"{self.limit} requests wait already: try again in a moment")
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Cancels what waits, and ends."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.future.cancel()
            self._jobs.clear()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                job.future.set_result(job.call())
            except BaseException as e:  # it belongs to whoever asked
                job.future.set_exception(e)
