"""A worker thread that runs device work one job at a time, and drops outdated slider moves."""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, NamedTuple

from flaxae.errors import ConfigError

LIMIT = 64  # waiting jobs


class Busy(ConfigError):
    """The worker accepts no job, because too many wait already or it is closed."""


class _Job(NamedTuple):
    key: Hashable | None
    call: Callable[[], Any]
    future: Future


class Worker:
    """A thread with a bounded queue.

    A new job replaces a waiting job of the same key and takes its place in the queue. The future of
    the replaced job is cancelled.

    Attributes:
        limit: maximum number of waiting jobs.
        dropped: number of jobs that were replaced.
    """

    def __init__(self, limit: int = LIMIT):
        """Start the thread.

        Args:
            limit: maximum number of waiting jobs.
        """
        self.limit, self.dropped = limit, 0
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="flaxae-explore", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Any], key: Hashable | None = None) -> Future:
        """Queue a job.

        Args:
            call: the work.
            key: owner and purpose of the job, such as (page, "slider"); None: the job is never
                replaced.

        Returns:
            The job's future. It is cancelled if a later job of the same key replaces the job.

        Raises:
            Busy: if the queue is full.
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
                raise Busy(f"{self.limit} requests are waiting already: try again in a moment")
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Cancel the waiting jobs, and end the thread."""
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
            except BaseException as e:  # raised again by the future's result()
                job.future.set_exception(e)
