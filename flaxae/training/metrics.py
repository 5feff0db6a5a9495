"""Measures of a run itself: a progress line, goodput, compile time, MFU and memory."""

import contextlib
import math
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

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
LINE_SECONDS = 10.0  # between progress lines if there is no terminal


class Progress:
    """The progress of a run: a bar on a terminal, else a line about every ten seconds.

    Args:
        total: steps of the whole run.
        start: the step that the run starts from.
        enabled: False prints nothing.
        unit_per_step: the number of units ("examples", "tokens") per step.
        unit: their name.
        shown: names of metrics that are shown beside the loss.
    """

    def __init__(
        self,
        total: int,
        start: int,
        enabled: bool,
        unit_per_step: float,
        unit: str,
        shown: tuple[str, ...] = (),
    ):
        self._shown = shown
        self._total, self._enabled = total, enabled
        self._per_step, self._unit = unit_per_step, unit
        self._at = self._first = (time.monotonic(), start)
        self._start, self._updates, self._printed = start, 0, -math.inf
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def update(self, step: int, scalars: dict[str, Any]) -> None:
        """Show a step: its loss (if there is one), the throughput, and the time left."""
        if not self._enabled:
            return
        now = time.monotonic()
        self._updates += 1
        (then, before), self._at = self._first, (now, step)
        rate = (step - before) / max(now - then, 1e-9)
        if self._updates == 1:
            self._first = self._at  # later rates leave out the compilation before this step
        loss = scalars.get("loss")
        parts = [] if loss is None else [f"loss {float(loss):.4g}"]
        parts += [f"{name} {float(scalars[name]):.3g}" for name in self._shown if name in scalars]
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
        """Print a text above the bar."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._enabled:
            print(text, flush=True)

    def close(self) -> None:
        """Remove the bar."""
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
    """The share of wall time spent stepping: all of it except what `track` counts."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def track(self, name: str) -> Iterator[None]:
        """Count the block's time as not stepping, under a name."""
        before = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - before
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def share(self) -> float:
        """Return the share since this object was made, between 0 and 1."""
        wall = max(time.perf_counter() - self._started, 1e-9)
        return max(0.0, 1.0 - sum(self.seconds.values()) / wall)


class CompileTime:
    """Seconds of compilation in this process since this object was made."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event in COMPILE_EVENTS:
            self.seconds += duration_secs

    def close(self) -> None:
        """Stop counting; `seconds` stays."""
        with contextlib.suppress(AssertionError, ValueError):  # closed before
            jax.monitoring.unregister_event_duration_listener(self._listen)


def peak_flops(device: Any) -> float:
    """Return the peak dense bfloat16 FLOP/s of a device; 0: unknown."""
    kind = str(device.device_kind).lower()
    return next((flops for name, flops in PEAK_FLOPS if name in kind), 0.0)


def mfu(flops: float, seconds: float, devices: int) -> float:
    """Return the model FLOPs utilisation (MFU), of devices like the first one.

    Args:
        flops: FLOPs of one step, over all devices.
        seconds: duration of the step.
        devices: number of devices.

    Returns:
        A share of the peak FLOP/s; 0: the peak is unknown.
    """
    peak = peak_flops(jax.devices()[0])
    return flops / (seconds * devices * peak) if peak and seconds > 0 else 0.0


def peak_memory_bytes() -> int:
    """Return the most memory used so far by a device of this process, else by the process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        return int(max(peaks))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
