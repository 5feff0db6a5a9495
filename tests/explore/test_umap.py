"""UMAP in the page: a progress bar while it is computed, and a cached layout."""

import time

import numpy as np
import pytest

from flaxae.explore.backend import Explorer
from tests.explore.chromium import WatchedPage, launch, open_view, text_of, wait_for
from tests.explore.conftest import start_server, stop_server
from tests.explore.tiny import Letters

LINES = [f"{a}{b} = {i}" for i in range(10) for a in "xyzw" for b in "abcde"]  # 200
POINTS = """() => {
  const views = [];
  const walk = (view) => { views.push(view); for (const child of view.children()) walk(child); };
  for (const root of Object.values(Bokeh.index)) walk(root);
  const plot = views.find((v) => v.model.type == "Figure");
  const data = plot.model.renderers[0].data_source.data;
  const get = (name) => Array.from(data.get ? data.get(name) : data[name]);
  return [get("x"), get("y")];
}"""


def shown_points(page):
    return np.asarray(page.evaluate(POINTS), np.float32).T


def is_cached(explorer):
    return explorer.cache.find("map", len(explorer.texts)) is not None


@pytest.mark.slow
def test_the_umap_layout_is_shown_and_cached(tmp_path):
    pytest.importorskip("umap", reason="pip install umap-learn")
    lines, folder = tmp_path / "lines.txt", tmp_path / "cache"
    lines.write_text("\n".join(LINES))
    process, url = start_server(str(lines), "", str(folder))
    try:
        with launch() as browser:
            watched = WatchedPage(browser, viewport={"width": 1000, "height": 900})
            page = watched.page
            page.goto(url)
            page.wait_for_selector(".view-between")
            open_view(page, "map")
            explorer = Explorer(Letters(), LINES, folder=folder)
            assert not is_cached(explorer)
            wait_for(lambda: np.allclose(shown_points(page), explorer.pca(), atol=1e-4), True)
            bar = page.locator(".view-map .progress").first
            layout = page.locator(".view-map select").first
            layout.select_option("UMAP")
            wait_for(bar.is_visible, True)
            # The page answers while UMAP runs: a dot is decoded.
            number = page.locator(".view-map input.bk-input").first
            number.fill("7")
            number.press("Enter")
            wait_for(lambda: explorer.texts[7] in text_of(page, ".view-map .answer"), True)
            wait_for(bar.is_visible, False, 180)
            assert is_cached(explorer)  # the file's name has a hash of model and texts
            cached = explorer.umap()
            wait_for(lambda: np.allclose(shown_points(page), cached, atol=1e-4), True)
            assert not is_cached(Explorer(Letters(), LINES[1:], folder=folder))
            layout.select_option("PCA")
            wait_for(lambda: np.allclose(shown_points(page), explorer.pca(), atol=1e-4), True)
            began = time.monotonic()
            layout.select_option("UMAP")
            wait_for(lambda: np.allclose(shown_points(page), cached, atol=1e-4), True)
            assert time.monotonic() - began < 30 and not bar.is_visible()
            watched.assert_quiet(url)
    finally:
        stop_server(process)
