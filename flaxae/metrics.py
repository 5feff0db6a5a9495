"""What a run logs: JSON lines, TensorBoard, a progress line; goodput, MFU, memory.

What a family measures is its own; here is only how numbers reach the logs.
"""

import contextlib
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxae import paths
from flaxae.config import ConfigError, LogConfig

# Dense bfloat16 FLOP/s of one JAX device, from the vendors' data sheets; the first match wins.
PEAK_FLOPS = (
    ("tpu v4", 275e12),
    ("tpu v5 lite", 197e12),
    ("tpu v5e", 197e12),
    ("tpu v5", 459e12),
    ("tpu v6", 918e12),
    ("h100 pcie", 756e12),
    ("h100", 989e12),
    ("h200", 989e12),
    ("a100", 312e12),
)
COMPILE_EVENTS = (
    "/jax/core/compile/backend_compile_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
LINE_SECONDS = 10.0  # between progress lines where there is no terminal


class Writer:
    """Appends to metrics.jsonl and samples.jsonl of a workdir, and to TensorBoard.

    A line is {"step":, "split":, name: value, ...}. Wall-clock values have names that begin with
    "time/", so that logs can be compared without them. Only process 0 writes.

    Args:
        workdir: the folder; made where it is missing.
        log: `tensorboard` is read.
        process_index: of this process.
    """

    def __init__(self, workdir: str | Path, log: LogConfig, process_index: int = 0):
        self.path = paths.as_path(workdir) / "metrics.jsonl"
        self.samples_path = self.path.parent / "samples.jsonl"
        self._lines = {path: paths.Lines(path) for path in (self.path, self.samples_path)}
        self._main, self._log = process_index == 0, log
        self._board: Any = None
        self._board_copy: tempfile.TemporaryDirectory | None = None
        self._purge: int | None = None
        if self._main:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(
        self,
        step: int,
        split: str,
        scalars: dict[str, Any],
        texts: dict[str, list[str]] | None = None,
        images: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Logs what was measured at a step.

        Args:
            step: the number of steps taken.
            split: "train", the name of an evaluated split, or "sample".
            scalars: name -> number; one that is not finite is written as null.
            texts: name -> lines.
            images: name -> uint8 (height, width, channels).
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

    def cut(self, step: int) -> None:
        """Removes what was logged after a step, and a line that a killed run left half-written."""
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
        """Returns when all that was logged can be read. Raises ConfigError where it cannot."""
        self._flush()

    def _flush(self, end: bool = False) -> None:
        if self._board is not None:
            # Its own thread writes what it holds: all of it is in the file only when it is closed.
            (self._board.close if end else self._board.flush)()
        for path, lines in self._lines.items():
            with self._writing(path):
                lines.flush()
        if self._board is not None and self._board_copy is not None:
            with self._writing(self.path.parent / "tensorboard"):
                paths.upload(Path(self._board_copy.name), self.path.parent / "tensorboard")

    def close(self) -> None:
        """Flushes and ends; what cannot be written any more is a warning."""
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
                f"cannot write {path}: {paths.why(e)}; the checkpoints are whole: make room, and "
                "the same command goes on from the last one"
            ) from None

    def _tensorboard(self) -> Any:
        if self._board is None:
            from tensorboardX import SummaryWriter

            folder = str(self.path.parent / "tensorboard")
            if paths.is_remote(self.path):
                # It appends to local files, which `flush` copies.
                self._board_copy = tempfile.TemporaryDirectory()
                folder = self._board_copy.name
            # Named by the second alone, a file may overwrite the one before it.
            self._board = SummaryWriter(
                folder,
                purge_step=self._purge,
                filename_suffix=f".{time.time_ns()}",
            )
        return self._board

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = self._board_copy = None


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class Progress:
    """One line on where a run is: a bar on a terminal, else a plain line about every ten seconds.

    Args:
        total: steps of the whole run.
        start: the step it starts from.
        enabled: False prints nothing.
        unit_per_step: how many units ("examples", "tokens") a step takes.
        unit: their name.
    """

    def __init__(self, total: int, start: int, enabled: bool, unit_per_step: float, unit: str):
        self._total, self._enabled = total, enabled
        self._per_step, self._unit = unit_per_step, unit
        self._at = self._first = (time.monotonic(), start)
        self._start, self._updates, self._printed = start, 0, -math.inf
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def update(self, step: int, scalars: dict[str, Any]) -> None:
        """Shows a step: its loss (where there is one), throughput, and the time left."""
        if not self._enabled:
            return
        now = time.monotonic()
        self._updates += 1
        (then, before), self._at = self._first, (now, step)
        rate = (step - before) / max(now - then, 1e-9)
        if self._updates == 1:
            self._first = self._at  # later rates leave out what was compiled until here
        loss = scalars.get("loss")
        parts = [] if loss is None else [f"loss {float(loss):.4g}"]
        parts.append(f"{_short(rate * self._per_step)} {self._unit}/s")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._printed >= LINE_SECONDS or step >= self._total:
            self._printed = now
            left = _clock((self._total - step) / max(rate, 1e-9))
            share = 100 * step / max(self._total, 1)
            parts = [f"step {step}/{self._total} ({share:.0f} %)", *parts, f"ETA {left}"]
            print(", ".join(parts), flush=True)

    def note(self, text: str) -> None:
        """Prints a text above the bar."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._enabled:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _short(x: float) -> str:
    return f"{x / 1e6:.2f}M" if x >= 1e6 else f"{x / 1e3:.1f}k" if x >= 1e4 else f"{x:.3g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Goodput:
    """The share of wall time spent stepping: all of it but what is tracked as something else."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def track(self, name: str) -> Iterator[None]:
        """Counts the block's time as not stepping, under a name."""
        before = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - before
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def share(self) -> float:
        """Between 0 and 1, since this was made."""
        wall = max(time.perf_counter() - self._started, 1e-9)
        return max(0.0, 1.0 - sum(self.seconds.values()) / wall)


class CompileTime:
    """Seconds that XLA has compiled for, in this process, since this was made."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event in COMPILE_EVENTS:
            self.seconds += duration_secs

    def close(self) -> None:
        """Stops counting; `seconds` stays."""
        with contextlib.suppress(AssertionError, ValueError):  # it was closed before
            jax.monitoring.unregister_event_duration_listener(self._listen)


def peak_flops(device: Any) -> float:
    """Dense bfloat16 FLOP/s of a device at its peak; 0 where it is not known."""
    kind = str(device.device_kind).lower()
    return next((flops for name, flops in PEAK_FLOPS if name in kind), 0.0)


def mfu(flops: float, seconds: float, devices: int) -> float:
    """Model FLOPs utilisation, of devices like the first one.

    Args:
        flops: of one step, over all devices.
        seconds: that the step takes.
        devices: how many.
    Returns:
        A share of the peak; 0 where that is not known.
    """
    peak = peak_flops(jax.devices()[0])
    return flops / (seconds * devices * peak) if peak and seconds > 0 else 0.0


def peak_memory_bytes() -> int:
    """The most memory used so far: of this process's fullest device, else of the process itself."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        return int(max(peaks))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def figure_to_image(figure: Any) -> np.ndarray:
    """A matplotlib figure as uint8 (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
