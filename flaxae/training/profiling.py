"""A profiler trace of some steps of a run, kept in its workdir."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from flaxae.storage import paths

FOLDER = "profile"


class Trace:
    """Traces the calls that have a step of a window in them.

    A run that is resumed, or stops, inside the window has a trace of the part that it ran.

    Args:
        window: (first step, last step), as steps done before and after; (): no trace.
        workdir: of the run, local or in a bucket.
    """

    def __init__(self, window: tuple[int, ...], workdir: Any):
        self.window, self.workdir = window, workdir
        self.on = False
        self._copy: tempfile.TemporaryDirectory | None = None  # of a trace for a bucket

    def before(self, start: int, end: int) -> None:
        """Called before the call that goes from step `start` to step `end`."""
        if self.on or not self.window or end <= self.window[0] or start >= self.window[1]:
            return
        if paths.is_remote(self.workdir):
            self._copy = tempfile.TemporaryDirectory()
        jax.profiler.start_trace(self._copy.name if self._copy else str(self.workdir / FOLDER))
        self.on = True

    def after(self, end: int, made: Any) -> None:
        """Called when the call to step `end` was dispatched; `made` is something that it makes."""
        if self.on and end >= self.window[1]:
            jax.block_until_ready(made)
            self.stop()

    def stop(self) -> None:
        """Writes a trace that has begun."""
        if not self.on:
            return
        self.on = False
        jax.profiler.stop_trace()
        if self._copy:
            paths.upload(Path(self._copy.name), self.workdir / FOLDER)
            self._copy.cleanup()
            self._copy = None
