"""What a run logs: JSON lines, TensorBoard, a progress line; goodput, MFU, memory.

What a family measures is its own; here is only how numbers reach the logs.
"""

import contextlib
import math
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

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
