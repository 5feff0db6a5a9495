"""UMAP from the page: a progress bar while it is made, and kept for the next time."""

import time

import numpy as np
import pytest

from flaxae.explore.backend import Explorer
from tests.explore.chromium import Watched, launched, opened, said, until
from tests.explore.conftest import serving, stop
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


def shows(page):
    return np.asarray(page.evaluate(POINTS), np.float32).T


@pytest.mark.slow
def test_umap_in_the_page(tmp_path):
    pytest.importorskip("umap", reason="pip install umap-learn")
    lines, folder = tmp_path / "lines.txt", tmp_path / "kept"
    lines.write_text("\n".join(LINES))
    process, url = serving(str(lines), "", str(folder))
    try:
        with launched() as browser:
            watched = Watched(browser, viewport={"width": 1000, "height": 900})
            page = watched.page
            page.goto(url)
            page.wait_for_selector(".view-between")
            opened(page, "map")
            explorer = Explorer(Letters(), LINES, folder=folder)
            assert not explorer.umap_is_kept
            until(lambda: np.allclose(shows(page), explorer.pca(), atol=1e-4), True)
            bar = page.locator(".view-map .progress").first
            layout = page.locator(".view-map select").first
            layout.select_option("UMAP")
            until(bar.is_visible, True)
            # The page answers while it is made: a dot is decoded.
            number = page.locator(".view-map input.bk-input").first
            number.fill("7")
            number.press("Enter")
            until(lambda: explorer.texts[7] in said(page, ".view-map .answer"), True)
            until(bar.is_visible, False, 180)
            assert explorer.umap_is_kept  # in the folder, under the model's and the texts' name
            kept = explorer.umap()
            until(lambda: np.allclose(shows(page), kept, atol=1e-4), True)
            assert not Explorer(Letters(), LINES[1:], folder=folder).umap_is_kept
            layout.select_option("PCA")
            until(lambda: np.allclose(shows(page), explorer.pca(), atol=1e-4), True)
            began = time.monotonic()
            layout.select_option("UMAP")
            until(lambda: np.allclose(shows(page), kept, atol=1e-4), True)
            assert time.monotonic() - began < 30 and not bar.is_visible()
            watched.quiet(url)
    finally:
        stop(process)
