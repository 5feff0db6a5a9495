"""The logs of a run: metrics.jsonl, samples.jsonl and TensorBoard."""

import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.config import LogConfig
from flaxae.errors import ConfigError
from flaxae.storage import paths
from flaxae.storage.jsonl import LineFile


class Writer:
    """Appends to metrics.jsonl and samples.jsonl of a workdir, and to TensorBoard.

    A line is {"step":, "split":, name: value, ...}. Wall-clock values have names that begin with
    "time/", so that logs can be compared without them. Only process 0 writes.

    Args:
        workdir: the folder; created if it is missing.
        log: the config's section; `tensorboard` is read.
        process_index: the index of this process.

    Attributes:
        path: metrics.jsonl.
        samples_path: samples.jsonl.
    """

    def __init__(self, workdir: str | Path, log: LogConfig, process_index: int = 0):
        self.path = paths.as_path(workdir) / "metrics.jsonl"
        self.samples_path = self.path.parent / "samples.jsonl"
        self._lines = {path: LineFile(path) for path in (self.path, self.samples_path)}
        self._main, self._log = process_index == 0, log
        self._board: Any = None
        self._board_copy: tempfile.TemporaryDirectory | None = None
        self._purge: int | None = None
        # A bucket has no folders; whether it exists shows at the first write.
        if self._main and not paths.is_remote(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(
        self,
        step: int,
        split: str,
        scalars: dict[str, Any],
        texts: dict[str, list[str]] | None = None,
        images: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Log the measurements of a step.

        Args:
            step: the number of steps taken.
            split: "train", the name of an evaluated split, or "sample".
            scalars: name -> number; a number that is not finite is written as null.
            texts: name -> lines.
            images: name -> uint8 (height, width, channels).

        Raises:
            ConfigError: if a log cannot be written.
        """
        if not self._main:
            return
        if scalars:
            row = {name: _plain(value) for name, value in scalars.items()}
            self._append(self.path, {"step": int(step), "split": split, **row})
        if texts:
            self._append(self.samples_path, {"step": int(step), "split": split, **texts})
        if not self._log.tensorboard:
            return
        board = self._tensorboard()
        for name, value in scalars.items():
            board.add_scalar(f"{split}/{name}", float(value), step)
        for name, lines in (texts or {}).items():
            # Four spaces make a block in Markdown: code keeps its own spaces.
            board.add_text(f"{split}/{name}", "\n".join(f"    {line}" for line in lines), step)
        for name, image in (images or {}).items():
            board.add_image(f"{split}/{name}", image, step, dataformats="HWC")

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl, oldest first."""
        text = self.path.read_text() if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def evaluations(self) -> list[dict[str, Any]]:
        """Return the rows of evaluations and samples: also those on the train split."""
        return [row for row in self.rows() if _is_evaluation(row)]

    def remove_evaluation(self, step: int) -> None:
        """Remove the evaluations of a step, but not its samples."""
        lines = self._lines[self.path].read() if self._main else []

        def removed(row: dict[str, Any]) -> bool:
            return row["step"] == step and row["split"] != "sample" and _is_evaluation(row)

        kept = [line for line in lines if not removed(json.loads(line))]
        if kept != lines:
            self._lines[self.path].replace(kept)

    def cut(self, step: int) -> None:
        """Remove the lines of later steps, and a line that a killed run left incomplete."""
        if not self._main:
            return
        for path in (self.path, self.samples_path):
            lines = self._lines[path].read()
            kept = [line for line in lines if _step_of(line) <= step]
            if kept != lines:
                self._lines[path].replace(kept)
        self._close_board()
        self._purge = step + 1

    def flush(self) -> None:
        """Wait until all that was logged can be read. Raises ConfigError as `write` does."""
        self._flush()

    def _flush(self, end: bool = False) -> None:
        if self._board is not None:
            # A thread of the SummaryWriter writes: the file is complete only when that is closed.
            (self._board.close if end else self._board.flush)()
        for path, lines in self._lines.items():
            with self._writing(path):
                lines.flush()
        if self._board is not None and self._board_copy is not None:
            with self._writing(self.path.parent / "tensorboard"):
                paths.upload(Path(self._board_copy.name), self.path.parent / "tensorboard")

    def abandon(self) -> None:
        """Close without writing what has not been written yet."""
        for lines in self._lines.values():
            lines.abandon()
        self._close_board()

    def close(self) -> None:
        """Flush and close; print a warning if something could not be written."""
        try:
            self._flush(end=True)
        except ConfigError as e:
            print(f"warning: {e}", file=sys.stderr)
        self._board = self._board_copy = None

    def _append(self, path: Path, row: dict[str, Any]) -> None:
        with self._writing(path):
            self._lines[path].append(json.dumps(row, ensure_ascii=False) + "\n")

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except Exception as e:
            if not (paths.is_remote(path) or isinstance(e, OSError)):
                raise
            raise ConfigError(
                f"cannot write {path}: {paths.reason(e)}; the checkpoints are intact: free disk "
                "space and run the same command to continue from the last one"
            ) from None

    def _tensorboard(self) -> Any:
        if self._board is None:
            from tensorboardX import SummaryWriter

            folder = str(self.path.parent / "tensorboard")
            if paths.is_remote(self.path):
                # It appends to local files, which `flush` uploads.
                self._board_copy = tempfile.TemporaryDirectory()
                folder = self._board_copy.name
            # Its own names differ by the second only: a new file could overwrite the previous one.
            self._board = SummaryWriter(
                folder, purge_step=self._purge, filename_suffix=f".{time.time_ns()}"
            )
        return self._board

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = self._board_copy = None


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_evaluation(row: dict[str, Any]) -> bool:
    """Return True for a row that is not one of the training's own, which have wall-clock values."""
    return not any(name.startswith("time/") for name in row)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
