"""Batches prepared ahead of the loop, by a thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from flaxae.task import Source


class Prefetcher:
    """Iterates over (step, put(batch)) from `start`, prepared ahead by a thread.

    What the thread raises is raised by `next`. Close it, or use it as a context manager.
    """

    def __init__(self, source: Source, start: int, put: Callable[[Any], Any], size: int = 2):
        """Starts the thread.

        Args:
            source: where batches come from; a finite one ends the iteration.
            start: the first step.
            put: what is done to a batch (put on devices).
            size: how many to prepare ahead; 0: no thread, all happens in `next`.
        """
        self._source, self._next, self._put = source, start, put
        self._closed = threading.Event()
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=max(size, 1))
        self._thread = None
        if size:
            self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
            self._thread.start()

    def _items(self) -> Iterator[tuple[int, Any]]:
        end = self._source.num_batches
        while (end is None or self._next < end) and not self._closed.is_set():
            step = self._next
            self._next += 1
            yield step, self._put(self._source.batch(step))

    def _work(self) -> None:
        try:
            for item in self._items():
                self._offer(("item", item))
            self._offer(("end", None))
        except BaseException as error:  # noqa: BLE001 - handed to the consumer
            self._offer(("error", error))

    def _offer(self, message: tuple[str, Any]) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(message, timeout=0.1)
            except queue.Full:
                continue

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> tuple[int, Any]:
        if self._closed.is_set():
            raise StopIteration
        if self._thread is None:
            return next(self._items())
        kind, value = self._queue.get()
        if kind == "item":
            return value
        self.close()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Ends the thread and drops what it had prepared."""
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
