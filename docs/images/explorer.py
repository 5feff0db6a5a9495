"""Draw the documentation's pictures of the explorer: `python docs/images/explorer.py RUN`.

It needs Chromium and Playwright, like the explorer's tests.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))

from tests.explore.chromium import WatchedPage, answer_of, launch, open_view, type_text  # noqa: E402

WIDE = {"viewport": {"width": 1000, "height": 800}}
NARROW = {"viewport": {"width": 360, "height": 800}, "color_scheme": "dark"}


def main(run: str) -> None:
    """Start the explorer of a run and save one picture per view."""
    command = [sys.executable, "-m", "flaxae.explore", run, "--port=0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=FOLDER.parents[1])
    assert server.stdout is not None
    try:
        url = next(w for line in server.stdout for w in line.split() if w.startswith("http"))
        with launch() as browser:
            page = WatchedPage(browser, **WIDE).page
            page.goto(url)
            type_text(page, "between", 0, "import os")
            type_text(page, "between", 1, "return self.x")
            _save(page, "between")
            open_view(page, "map")
            number = page.locator(".view-map input[type=text]").first
            number.fill("77")
            number.press("Enter")
            _save(page, "map")
            page = WatchedPage(browser, **NARROW).page
            page.goto(url)
            _save(page, "narrow_dark", view="between")
    finally:
        server.kill()


def _save(page, name: str, view: str = "") -> None:
    answer = answer_of(page, view or name)
    for _ in range(600):
        if answer():
            break
        page.wait_for_timeout(100)
    page.wait_for_timeout(3000)
    page.screenshot(path=FOLDER / f"explorer_{name}.png", full_page=True)
    print(FOLDER / f"explorer_{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
