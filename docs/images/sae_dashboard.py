"""Draw the documentation's picture of a dashboard: `python docs/images/sae_dashboard.py PAGE N`.

PAGE is a file that `python -m flaxae.dashboard` wrote, N the feature that is shown. It needs
Chromium and Playwright, like the dashboard's tests.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))

from tests.explore.chromium import WatchedPage, launch  # noqa: E402


def main(file: str, feature: str) -> None:
    """Save the picture of one feature."""
    with launch() as browser:
        page = WatchedPage(browser, viewport={"width": 1180, "height": 1290}).page
        page.goto(f"{Path(file).resolve().as_uri()}#feature={feature}")
        page.wait_for_selector("h2")
        page.screenshot(path=FOLDER / "sae_dashboard.png")
        print(FOLDER / "sae_dashboard.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
