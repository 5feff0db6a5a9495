"""The explorer's answer to a slider, from the moved widget to the page's new text (server side).

One trained model, one page in this process with its own event loop, the worker between them: the
slider "between two texts" is moved again and again, each move to another place or other texts, and
the time until the page's pane has the new text is taken. The browser's and the network's share is
not in it. Bars: 60 ms (p50) and 150 ms (p95).
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
BARS = {"p50": 0.060, "p95": 0.150}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default=str(ROOT / "runs/demo"), help="a trained workdir")
    parser.add_argument("--corpus", default="", help="texts, one a line; default: the run's own")
    parser.add_argument("--moves", type=int, default=400)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


async def moves(hub: Any, count: int) -> list[float]:
    """Seconds of each move."""
    import numpy as np

    from flaxae.explore.app import Page

    page = Page(hub)
    view = page.current
    rng = np.random.default_rng(0)
    texts = hub.explorer.texts
    times = []
    for i in range(count):
        if i % 20 == 0:  # other texts, so that all lengths come up; not timed
            for name in "ab":
                view.inputs[name].value = texts[int(rng.integers(len(texts)))]
            await asyncio.wrap_future(hub.worker.submit(lambda: None))
            await asyncio.sleep(0.05)
        at = int(rng.integers(100))
        done = asyncio.Event()
        shown = view._show_here
        view._show_here = lambda text, shown=shown, done=done: (shown(text), done.set())
        began = time.perf_counter()
        view.inputs["at"].value = at + (at >= view.inputs["at"].value)
        await asyncio.wait_for(done.wait(), 60)
        times.append(time.perf_counter() - began)
        view._show_here = shown
    return times


def main() -> None:
    args = arguments()
    _threads.pin(args.threads)
    if not (Path(args.run) / "config.json").is_file():
        sys.exit(f"--run={args.run}: no trained run there (make demo)")
    import jax
    import numpy as np

    from flaxae.explore.app import Hub
    from flaxae.explore.backend import Explorer

    compiled: list[str] = []
    explorer = Explorer.open(args.run, args.corpus or None, most=args.points)
    began = time.perf_counter()
    explorer.warm_up()
    warm = time.perf_counter() - began
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    load = os.getloadavg()[0]
    times = asyncio.run(moves(Hub(explorer), args.moves))
    found = {"p50": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}
    print(f"{args.moves} moves on {args.threads} cores; warm-up took {warm:.1f} s; "
          f"{len(compiled)} programs compiled after it; load average {load:.1f}")  # fmt: skip
    cases = []
    for name, bar in BARS.items():
        print(f"{name}: {found[name] * 1e3:6.1f} ms (bar {bar * 1e3:.0f} ms)")
        cases.append({"name": name, "ours": found[name], "theirs": bar, "unit": "s",
                      "ratio": round(bar / found[name], 3)})  # fmt: skip
    print(json.dumps({
        "name": "explorer_latency", "cases": cases, "moves": args.moves, "threads": args.threads,
        "compiled_after_warm_up": len(compiled), "load_average": round(load, 2),
        "machine": platform.processor() or platform.machine(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
