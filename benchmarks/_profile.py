"""Where a step's time goes on an accelerator, by a trace of JAX's own profiler."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path


def operations(run: Callable[[], None]) -> tuple[Counter[str], Counter[str]]:
    """Seconds by kernel and how often each ran, while `run` ran.

    All devices and streams are added up: where some ran side by side, more than passed.
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


def table(run: Callable[[], None], steps: int, rows: int = 25) -> str:
    """The kernels that took longest, as lines of text, a step's share each."""
    seconds, count = operations(run)
    whole = sum(seconds.values())
    kernels = sum(count.values()) // steps
    lines = [f"busy {whole / steps * 1e3:.1f} ms a step in {kernels} kernels"]
    for name, spent in seconds.most_common(rows):
        times, part = count[name] / steps, spent / steps * 1e3
        lines.append(f"{part:9.2f} ms {spent / whole:6.1%} x {times:6.4g} {name[:110]}")
    return "\n".join(lines)
