"""The batches of a run's calls: steps and lanes stacked, and prepared ahead by a thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from flaxae.errors import ConfigError
from flaxae.task import Source


class Feed:
    """A Source of what one call of the step takes.

    Leaves get an axis of `steps_per_call` if that is above 1, then an axis of lanes if there are
    several sources.

    Args:
        sources: the source that all lanes share, or one per lane.
        steps_per_call: the number of steps per call.

    Raises:
        ConfigError: if the sources differ in the shapes or the number of batches.
    """

    def __init__(self, sources: list[Source], steps_per_call: int = 1):
        self.sources, self._steps_per_call = sources, steps_per_call
        self.num_batches = sources[0].num_batches
        self.fingerprint = "+".join(source.fingerprint for source in sources)
        first = sources[0]
        if any(
            s.num_batches != first.num_batches or s.batch_spec != first.batch_spec for s in sources
        ):
            raise ConfigError(
                "lanes with different data need batches of the same shape and number: train them "
                "separately (python -m flaxae.sweep --no-lanes)"
            )

    @property
    def leading(self) -> int:
        """The number of axes before the rows."""
        return (self._steps_per_call > 1) + (len(self.sources) > 1)

    @property
    def batch_spec(self) -> Any:
        """The shapes of one step's batch of one lane."""
        return self.sources[0].batch_spec

    def batch(self, step: int) -> Any:
        """Return the batch of call number `step`."""
        n = self._steps_per_call
        steps = [self._step(step * n + i) for i in range(n)]
        return steps[0] if n == 1 else jax.tree.map(lambda *x: np.stack(x), *steps)

    def _step(self, step: int) -> Any:
        batches = [source.batch(step) for source in self.sources]
        return batches[0] if len(batches) == 1 else jax.tree.map(lambda *x: np.stack(x), *batches)


class Prefetcher:
    """Iterator over (step, put(batch)) from step `start`, prepared ahead by a thread.

    An error of the thread is raised by `next`. Close the iterator, or use it as a context manager.
    """

    def __init__(self, source: Source, start: int, put: Callable[[Any], Any], size: int = 2):
        """Start the thread.

        Args:
            source: source of the batches; a finite one ends the iteration.
            start: first step.
            put: function applied to each batch, such as moving it to the devices.
            size: number of batches prepared ahead; 0: no thread, `next` prepares the batch.
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
        except BaseException as error:  # raised again by `next`
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
        """End the thread and drop the batches that it prepared."""
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
