"""Accessibility of the page: keyboard only, narrow screen, dark colours, colour blindness."""

import itertools
import os

import numpy as np
import pytest

from flaxae.explore import render
from flaxae.explore.backend import Explorer
from flaxae.explore.page import AppState, Page
from flaxae.explore.views import VIEWS
from tests.explore.chromium import WatchedPage, answer_of, open_view, slider_value, wait_for
from tests.explore.tiny import LINES, Letters

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def linear(color):
    """Return the linear RGB of #rrggbb."""
    value = np.asarray([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """Return the CIELAB of linear RGB."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x = np.asarray(matrix) @ np.clip(rgb, 0, 1) / np.asarray([0.9505, 1.0, 1.089])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.asarray([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", list(BLINDNESS))
def test_colours_are_distinguishable(name, dark):
    """They differ by 10 in CIELAB, about four just noticeable differences."""
    palette = render.palette(dark)
    seen = [lab(np.asarray(BLINDNESS[name]) @ linear(color)) for color in palette]
    close = [
        (palette[i], palette[j])
        for i, j in itertools.combinations(range(8), 2)
        if np.linalg.norm(seen[i] - seen[j]) < 10
    ]
    assert close == []
    assert len(set(render.MARKERS)) == len(palette) == 8


def test_every_marker_is_drawn():
    """Three of the markers are lines, which need a line colour."""
    state = AppState(Explorer(Letters(), LINES))
    page = Page(state)
    page.show("map")
    glyph = page.current._figure.renderers[0].glyph
    assert glyph.line_color == glyph.fill_color == "color"
    state.close()


@pytest.fixture(scope="module")
def narrow(served, browser):
    """Provide a page on a phone of 360 pixels that prefers dark colours."""
    url, _ = served
    watched = WatchedPage(browser, viewport={"width": 360, "height": 740}, color_scheme="dark")
    watched.page.goto(url)
    watched.page.wait_for_selector(".view-between .answer .big")
    wait_for(lambda: "theme=dark" in watched.page.url, True)
    watched.page.wait_for_selector(".view-between .answer .big")
    yield watched
    watched.assert_quiet(url)
    watched.context.close()


@pytest.mark.parametrize("name", list(VIEWS))
def test_a_narrow_dark_page_is_readable(narrow, name):
    """Nothing is wider than the page, and each text has enough contrast."""
    page = narrow.page
    open_view(page, name)
    page.wait_for_timeout(300)
    if shots := os.environ.get("FLAXAE_SCREENSHOTS"):
        page.screenshot(path=f"{shots}/narrow_dark_{name}.png", full_page=True)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    faint = page.evaluate(CONTRAST)
    # WCAG requires less contrast of a symbol than of a text.
    assert [x for x in faint if x[1] < (3 if len(x[0]) == 1 else 4.5)] == []


def test_views_can_be_used_by_keyboard(served, browser):
    """The path between two texts and the map, with a visible focus."""
    url, explorer = served
    watched = WatchedPage(browser, viewport={"width": 1000, "height": 900})
    page = watched.page
    page.goto(url)
    page.wait_for_selector(".view-between .answer .big")
    keys = page.keyboard

    def tab_to(label):
        for _ in range(40):
            keys.press("Tab")
            if page.evaluate(FOCUS) == label:
                assert page.evaluate(OUTLINE), f"{label}: the focus cannot be seen"
                return
        pytest.fail(f"Tab does not reach {label}")

    tab_to("From")
    keys.press("Control+a")
    keys.type("count = 1")
    tab_to("To")
    keys.press("Control+a")
    keys.type("self = 7")
    tab_to("Path")
    tab_to("slider")
    keys.press("PageUp")
    handle = page.locator(".view-between .slider-at .noUi-handle")
    wait_for(lambda: slider_value(handle) > 50, True)
    at = int(slider_value(handle))
    wanted = explorer.between_at("count = 1", "self = 7", at)
    wait_for(answer_of(page, "between"), wanted)
    keys.press("Home")
    wait_for(answer_of(page, "between"), explorer.between_at("count = 1", "self = 7", 0))
    for _ in range(40):
        keys.press("Shift+Tab")
        if page.evaluate(FOCUS) == "Map":
            break
    keys.press("Enter")
    page.wait_for_selector(".view-map")
    tab_to("Text number")
    keys.press("Control+a")
    keys.type("7")
    keys.press("Enter")
    wait_for(answer_of(page, "map"), explorer.point(7).decoded)
    tab_to("Select texts with")
    keys.type("import")
    keys.press("Enter")
    count = sum("import" in text for text in explorer.texts)
    note = page.locator(".view-map .selected div").first
    wait_for(lambda: note.inner_text().startswith(f"{count} texts selected"), True)
    watched.assert_quiet(url)
    watched.context.close()


_DEEP = """
  const deep = () => {
    let el = document.activeElement;
    while (el && el.shadowRoot && el.shadowRoot.activeElement) el = el.shadowRoot.activeElement;
    return el;
  };
"""
# The name that a screen reader would say for the element with the focus.
FOCUS = f"""() => {{ {_DEEP}
  const el = deep();
  if (!el) return "";
  if (el.getAttribute("role") == "slider") return "slider";
  if (el.tagName == "BUTTON") return el.textContent.trim();
  return [...(el.labels || [])].map((x) => x.textContent.trim()).join(" ")
    || el.getRootNode().querySelector("label")?.textContent.trim() || "";
}}"""
OUTLINE = f"""() => {{ {_DEEP}
  const style = getComputedStyle(deep());
  return style.outlineStyle != "none" || style.boxShadow != "none";
}}"""
# [text, contrast as in WCAG 2] of each visible text.
CONTRAST = """() => {
  const rgb = (css) => {
    const found = css.match(/[\\d.]+/g).map(Number);
    const scale = css.startsWith("color(srgb") ? 255 : 1;
    return [...found.slice(0, 3).map((x) => scale * x), found[3] ?? 1];
  };
  const over = (top, below) => top.slice(0, 3).map((x, i) => x * top[3] + below[i] * (1 - top[3]));
  const parent = (el) => el.assignedSlot ?? el.parentElement ?? el.getRootNode().host;
  const behind = (el) => {
    const layers = [];
    for (let x = el; x; x = parent(x)) layers.push(rgb(getComputedStyle(x).backgroundColor));
    const page = matchMedia("(prefers-color-scheme: dark)").matches ? 18 : 255;
    return layers.reverse().reduce((below, top) => over(top, below), [page, page, page]);
  };
  const opacity = (el) => {
    let all = 1;
    for (let x = el; x; x = parent(x)) all *= Number(getComputedStyle(x).opacity);
    return all;
  };
  const light = (c) => {
    const part = (x) => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
    const [r, g, b] = c.map((x) => part(x / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const out = [];
  const walk = (root) => {
    for (const el of root.querySelectorAll("*")) {
      if (el.shadowRoot) walk(el.shadowRoot);
      if (["STYLE", "SCRIPT", "OPTION"].includes(el.tagName)) continue;
      const own = [...el.childNodes].filter((n) => n.nodeType == 3 && n.textContent.trim());
      if (!own.length || !el.checkVisibility() || !el.getClientRects().length) continue;
      const back = behind(el), front = rgb(getComputedStyle(el).color);
      front[3] *= opacity(el);
      const [a, b] = [light(over(front, back)), light(back)];
      const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      out.push([own[0].textContent.trim().slice(0, 40), contrast]);
    }
  };
  walk(document);
  return out;
}"""
