"""Time per kernel of a step on an accelerator, from a trace of JAX's profiler."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path


def operations(run: Callable[[], object]) -> tuple[Counter[str], Counter[str]]:
    """Return the seconds and the number of executions of each kernel while `run` runs.

    Devices and streams are added up, so concurrent kernels count more than the elapsed time.
    """
    import jax

    seconds: Counter[str] = Counter()
    count: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        for file in Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
                if not plane.name.startswith("/device:"):
                    continue
                for row in plane.lines:  # a GPU's streams; a TPU's operations
                    if "Stream" in row.name or row.name == "XLA Ops":
                        for event in row.events:
                            seconds[event.name] += event.duration_ns / 1e9
                            count[event.name] += 1
    return seconds, count


def table(run: Callable[[], object], steps: int, rows: int = 25) -> str:
    """Return the slowest kernels as lines of text, in milliseconds per step."""
    seconds, count = operations(run)
    whole = sum(seconds.values())
    kernels = sum(count.values()) // steps
    lines = [f"busy {whole / steps * 1e3:.1f} ms per step in {kernels} kernels"]
    for name, spent in seconds.most_common(rows):
        times, part = count[name] / steps, spent / steps * 1e3
        lines.append(f"{part:9.2f} ms {spent / whole:6.1%} x {times:6.4g} {name[:110]}")
    return "\n".join(lines)
