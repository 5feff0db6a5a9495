"""A profiler trace of some steps of a run, kept in its workdir."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from flaxae.storage import paths

FOLDER = "profile"


class Trace:
    """Traces the calls that contain a step of a window.

    A run that is resumed or stops inside the window has a trace of the part that it ran.

    Args:
        window: (start, end), numbers of steps done; (): no trace.
        workdir: the run's folder, local or in a bucket.

    Attributes:
        on: whether a trace is being recorded.
    """

    def __init__(self, window: tuple[int, ...], workdir: Path):
        self.window, self.workdir = window, workdir
        self.on = False
        self._copy: tempfile.TemporaryDirectory | None = None  # the local trace of a bucket's run

    def before(self, start: int, end: int) -> None:
        """Start the trace if the call from step `start` to step `end` is in the window."""
        if self.on or not self.window or end <= self.window[0] or start >= self.window[1]:
            return
        if paths.is_remote(self.workdir):
            self._copy = tempfile.TemporaryDirectory()
        jax.profiler.start_trace(self._copy.name if self._copy else str(self.workdir / FOLDER))
        self.on = True

    def after(self, end: int, made: Any) -> None:
        """Stop the trace if the call to step `end` was the window's last.

        Args:
            end: the step after the call, which has been dispatched.
            made: an output of the call, to wait for.
        """
        if self.on and end >= self.window[1]:
            jax.block_until_ready(made)
            self.stop()

    def stop(self) -> None:
        """Write the trace if one is being recorded."""
        if not self.on:
            return
        self.on = False
        jax.profiler.stop_trace()
        if self._copy:
            paths.upload(Path(self._copy.name), self.workdir / FOLDER)
            self._copy.cleanup()
            self._copy = None
