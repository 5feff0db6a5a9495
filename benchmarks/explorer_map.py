"""The explorer's map in a headless Chromium: hovering, and the frame rate while dragging.

Ten thousand random codes replace a corpus, so no trained model is needed: only the browser's part
is timed. The limits are 50 ms (median) and 100 ms (p95) per frame while the map is dragged, and
200 ms from the mouse to the text of the point under it.
"""

import argparse
import json
import os
import platform
import sys
import threading
import time
from pathlib import Path
from typing import Any

import _threads

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
LIMITS = {"frame": 0.050, "frame_p95": 0.100, "hover": 0.200}
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FIND_PLOT = """
  const views = [];
  const walk = (view) => { views.push(view); for (const child of view.children()) walk(child); };
  for (const root of Object.values(Bokeh.index)) walk(root);
  const plot = views.find((v) => v.model.type == "Figure");
  const frame = plot.frame, box = plot.canvas_view.el.getBoundingClientRect();
"""
POSITIONS = f"""(rows) => {{ {FIND_PLOT}
  const data = plot.model.renderers[0].data_source.data;
  const [xs, ys] = ["x", "y"].map((name) => data.get ? data.get(name) : data[name]);
  return {{left: box.left + frame.bbox.left, top: box.top + frame.bbox.top,
    width: frame.bbox.width, height: frame.bbox.height, backend: plot.model.output_backend,
    points: rows.map((i) =>
      [box.left + frame.x_scale.compute(xs[i]), box.top + frame.y_scale.compute(ys[i])])}};
}}"""
# Only frames in which the map has moved count: others cost nothing.
FRAMES = f"""() => {{ {FIND_PLOT}
  window.frames_seen = [];
  window.counting = true;
  let last = performance.now(), before = plot.model.x_range.start;
  const step = () => {{
    const now = performance.now(), here = plot.model.x_range.start;
    if (here != before) window.frames_seen.push(now - last);
    [last, before] = [now, here];
    if (window.counting) requestAnimationFrame(step);
  }};
  requestAnimationFrame(step);
}}"""
# Milliseconds from the mouse event to its tooltip.
HOVER = """() => {
  window.hover = new Promise((done) => {
    let began = 0;
    addEventListener("pointermove", () => { began ||= performance.now(); }, {capture: true});
    const look = () => {
      const found = (root) => [...root.querySelectorAll("*")].some((el) =>
        (el.classList.contains("bk-Tooltip") && getComputedStyle(el).display != "none")
        || (el.shadowRoot && found(el.shadowRoot)));
      if (began && found(document)) done(performance.now() - began);
      else if (began && performance.now() - began > 20000) done(Infinity);
      else requestAnimationFrame(look);
    };
    look();
  });
}"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--moves", type=int, default=120, help="mouse moves per drag")
    parser.add_argument("--hovers", type=int, default=20)
    parser.add_argument("--screenshot", default="", metavar="FILE")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def start_server(points: int) -> str:
    """Serve a map with that many points from a thread; return its address."""
    import asyncio

    import numpy as np

    from flaxae.explore.backend import Explorer
    from flaxae.explore.server import serve
    from tests.explore.tiny import Letters

    class RandomCodes(Letters):
        """A model with random codes."""

        def encode(self, texts: Any, *, truncate: bool = False) -> Any:
            return np.random.default_rng(len(texts)).normal(size=(len(texts), 2, 6))

    texts = [
        f"{a}{b}{c}{d} = {i}"
        for i in range(10)
        for a in "abcdefghij"
        for b in "klmno"
        for c in "pqrst"
        for d in "uvwx"
    ]
    explorer = Explorer(RandomCodes(), texts, most=points)
    addresses: list[str] = []
    started = threading.Event()

    def on_ready(url: str) -> None:
        addresses.append(url)
        started.set()

    def run() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        serve(explorer, ready=on_ready)

    threading.Thread(target=run, daemon=True).start()
    if not started.wait(120):
        sys.exit("the explorer's server did not start")
    return addresses[0]


def measure(page: Any, url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Hover over points and drag the map; return the times in seconds."""
    page.goto(url)
    page.wait_for_selector(".view-between")
    began = time.perf_counter()
    page.click(".to-map button")
    page.wait_for_selector(".view-map canvas")
    page.wait_for_selector(".view-map .answer .big")
    shown = time.perf_counter() - began
    page.locator(".view-map select").nth(1).select_option("cluster")  # all colours and markers
    time.sleep(3)
    rows = [int(i * args.points / args.hovers) for i in range(args.hovers)]
    positions = page.evaluate(POSITIONS, rows)
    left, top, width, height = (positions[x] for x in ("left", "top", "width", "height"))
    hovers = []
    for x, y in positions["points"]:
        page.mouse.move(left - 20, top + height + 60)  # outside of the map: no tooltip
        time.sleep(0.3)
        page.evaluate(HOVER)
        page.mouse.move(x, y)
        hovers.append(page.evaluate("window.hover") / 1e3)
    if args.screenshot:
        page.screenshot(path=args.screenshot)
    page.mouse.move(left - 20, top + height + 60)
    page.locator(".bk-ToolIcon, .bk-tool-icon-pan").first.wait_for(state="attached")
    page.evaluate(PAN)
    page.mouse.move(left + width / 2, top + height / 2)
    page.mouse.down()
    page.evaluate(FRAMES)
    for i in range(args.moves):
        share = i / args.moves
        page.mouse.move(left + width * (0.5 + 0.3 * share), top + height * (0.5 + 0.3 * share))
    page.evaluate("window.counting = false")
    page.mouse.up()
    frames = [x / 1e3 for x in page.evaluate("window.frames_seen")]
    moved = page.evaluate(POSITIONS, rows)["points"][0][0] - positions["points"][0][0]
    return {
        "frames": frames,
        "hovers": hovers,
        "shown": shown,
        "moved": moved,
        "backend": positions["backend"],
    }


# When the page opens, dragging selects points.
PAN = f"""() => {{ {FIND_PLOT}
  const pan = plot.model.toolbar.tools.find((tool) => tool.type == "PanTool");
  pan.active = true;
}}"""


def main() -> None:
    """Measure the map and print the JSON line."""
    args = _arguments()
    _threads.pin(args.threads)
    if not 100 <= args.points <= 10_000 or not args.hovers or args.moves < 10:
        sys.exit("--points must be 100 to 10000, --hovers at least 1, --moves at least 10")
    if not Path(CHROMIUM).exists():
        sys.exit(f"no browser at {CHROMIUM}: apt-get install chromium")
    import numpy as np
    from playwright.sync_api import sync_playwright

    url = start_server(args.points)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 950})
        found = measure(page, url, args)
        browser.close()
    load = os.getloadavg()[0]
    frames = found["frames"]
    ours = {
        "frame": float(np.median(frames)),
        "frame_p95": float(np.quantile(frames, 0.95)),
        "hover": float(np.median(found["hovers"])),
    }
    print(
        f"{args.points} points, drawn by {found['backend']}, shown after {found['shown']:.2f} s; "
        f"{len(frames)} frames while dragged by {found['moved']:.0f} pixels; "
        f"load average {load:.1f}"
    )
    cases = []
    for name, limit in LIMITS.items():
        print(f"{name}: {ours[name] * 1e3:6.1f} ms (limit {limit * 1e3:.0f} ms)")
        cases.append(
            {
                "name": name,
                "ours": ours[name],
                "theirs": limit,
                "unit": "s",
                "ratio": round(limit / ours[name], 3),
            }
        )
    print(
        json.dumps(
            {
                "name": "explorer_map",
                "cases": cases,
                "points": args.points,
                "backend": found["backend"],
                "frames": len(frames),
                "load_average": round(load, 2),
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
