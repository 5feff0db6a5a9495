"""The explorer's latency from a moved slider to the page's new text, on the server side.

This process runs one trained model, one page with its event loop, and the worker between them. The
benchmark moves the slider "between two texts" repeatedly and measures the time until the page has
the new text, without browser and network. The limits are 60 ms (p50) and 150 ms (p95).
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import _threads

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
LIMITS = {"p50": 0.060, "p95": 0.150}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default=str(ROOT / "runs/demo"), help="a trained workdir")
    parser.add_argument(
        "--corpus", default="", help="file with one text per line; default: the run's own texts"
    )
    parser.add_argument("--moves", type=int, default=400)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


async def measure_moves(state: Any, count: int) -> list[float]:
    """Return the seconds of each move."""
    import numpy as np

    from flaxae.explore.page import Page

    page = Page(state)
    view = page.current
    rng = np.random.default_rng(0)
    texts = state.explorer.texts
    times = []
    for i in range(count):
        if i % 20 == 0:  # other texts, to include all lengths; not timed
            for name in "ab":
                view.inputs[name].value = texts[int(rng.integers(len(texts)))]
            await asyncio.wrap_future(state.worker.submit(lambda: None))
            await asyncio.sleep(0.05)
        at = int(rng.integers(100))
        done = asyncio.Event()
        show = view._show_here
        view._show_here = lambda text, show=show, done=done: (show(text), done.set())
        began = time.perf_counter()
        view.inputs["at"].value = at + (at >= view.inputs["at"].value)
        await asyncio.wait_for(done.wait(), 60)
        times.append(time.perf_counter() - began)
        view._show_here = show
    return times


def main() -> None:
    """Measure the latency and print the JSON line."""
    args = _arguments()
    _threads.pin(args.threads)
    if not (Path(args.run) / "config.json").is_file():
        sys.exit(f"--run={args.run}: there is no trained run (make demo trains one)")
    import jax
    import numpy as np

    from flaxae.explore.backend import Explorer
    from flaxae.explore.page import AppState

    compiled: list[str] = []
    explorer = Explorer.open(args.run, args.corpus or None, most=args.points)
    began = time.perf_counter()
    explorer.warm_up()
    warm = time.perf_counter() - began
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    load = os.getloadavg()[0]
    times = asyncio.run(measure_moves(AppState(explorer), args.moves))
    found = {"p50": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}
    print(
        f"{args.moves} moves on {args.threads} cores; warm-up took {warm:.1f} s; "
        f"{len(compiled)} programs compiled after it; load average {load:.1f}"
    )
    cases = []
    for name, limit in LIMITS.items():
        print(f"{name}: {found[name] * 1e3:6.1f} ms (limit {limit * 1e3:.0f} ms)")
        cases.append(
            {
                "name": name,
                "ours": found[name],
                "theirs": limit,
                "unit": "s",
                "ratio": round(limit / found[name], 3),
            }
        )
    print(
        json.dumps(
            {
                "name": "explorer_latency",
                "cases": cases,
                "moves": args.moves,
                "threads": args.threads,
                "compiled_after_warm_up": len(compiled),
                "load_average": round(load, 2),
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
