"""Every view used once in a real browser: what the page shows is what the API answers."""

import contextlib
import io
import time
from urllib.parse import parse_qs, urlparse

import pytest

from tests.explore.chromium import Watched, big, opened, said, typed, until
from tests.explore.conftest import EVIL

A, B, C = "count = 1", "self = 7", "import os"


@pytest.fixture(scope="module")
def page(served, browser):
    """A page that must ask no other host and report no error."""
    url, _ = served
    watched = Watched(browser, viewport={"width": 1000, "height": 900}, accept_downloads=True)
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    made = watched.page
    made.goto(url)
    made.wait_for_selector(".view-between")
    yield made
    watched.quiet(url)
    watched.context.close()


def cells(page, view, pane, table=0):
    """The rows of a table as texts."""
    found = page.locator(f".view-{view} .{pane} table").nth(table).locator("tbody tr")
    return lambda: [row.locator("td").all_text_contents() for row in found.all()]


def option(page, view, label, value):
    page.locator(f".view-{view} select").nth(label).select_option(value)


def shown(text):
    return text or "(empty)"


def test_between(page, served):
    explorer = served[1]
    typed(page, "between", 0, A)
    typed(page, "between", 1, B)
    until(big(page, "between"), explorer.between_at(A, B, 50))
    way = explorer.between(A, B)
    read = cells(page, "between", "way")
    until(lambda: [row[1] for row in read()], [shown(t) for t in way.texts])
    marks = [row[2] for row in read()]
    assert ["repeats" in m for m in marks] == way.repeats
    assert ["does not" not in m for m in marks] == way.parses
    told = said(page, ".view-between .way")
    assert f"Path ratio {way.path_ratio:.2f}" in told and f"step {way.largest_step:.2f}" in told
    handle = page.locator(".view-between .slider-at .noUi-handle")
    box = handle.bounding_box()
    track = page.locator(".view-between .slider-at .noUi-base").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.55, 0.7, 0.85, 0.9):
        page.mouse.move(track["x"] + share * track["width"], box["y"] + 5)
    page.mouse.up()
    until(lambda: 85 <= int(handle.get_attribute("aria-valuenow").split(".")[0]) <= 95, True)
    at = int(float(handle.get_attribute("aria-valuenow")))
    until(big(page, "between"), explorer.between_at(A, B, at))
    option(page, "between", 0, "lerp (straight)")
    until(big(page, "between"), explorer.between_at(A, B, at, "lerp"))


def test_a_link_restores_the_view(page, served, browser):
    explorer = served[1]
    opened(page, "neighbours")
    typed(page, "neighbours", 0, C)
    option(page, "neighbours", 0, "Euclid's")
    wanted = [
        [str(n.index), n.text, f"{n.distance:.3f}"] for n in explorer.neighbours(C, 10, "euclid")
    ]
    until(cells(page, "neighbours", "answer"), wanted)
    until(lambda: parse_qs(urlparse(page.url).query).get("metric"), ["euclid"])
    page.click(".view-neighbours .copy-link button")
    link = page.evaluate("navigator.clipboard.readText()")
    page.goto("about:blank")
    page.goto(link)
    until(cells(page, "neighbours", "answer"), wanted)
    page.goto(link.replace("model=", "model=0bad").replace("metric=euclid", "metric=taxi"))
    page.wait_for_selector(".view-neighbours")
    until(lambda: "another model" in said(page, ".notice"), True)
    told = said(page, ".notice")
    assert "metric='taxi'" in told
    until(lambda: len(cells(page, "neighbours", "answer")()), 10)


def test_map(page, served):
    explorer = served[1]
    opened(page, "map")
    until(big(page, "map"), explorer.place(0.0, 0.0).decoded)
    number = page.locator(".view-map input.bk-input").nth(0)
    number.fill("7")
    number.press("Enter")
    point = explorer.point(7)
    until(big(page, "map"), point.decoded)
    near = [[shown(n.text), f"{n.distance:.3f}"] for n in point.near]
    until(cells(page, "map", "answer"), near)
    plot, points = page.evaluate(FRAME), explorer.pca()

    def asked(name):
        return parse_qs(urlparse(page.url).query)[name][0]

    def click(x, y):
        page.mouse.click(x, y)
        time.sleep(1)  # until then it may become a double one
        page.mouse.move(x + 40, y + 40)  # a tap is told when the mouse goes on

    click(*page.evaluate(TO_SCREEN, [float(v) for v in points[20]]))
    until(lambda: asked("point") != "7", True)
    chosen = int(asked("point"))
    assert abs(points[chosen] - points[20]).max() < 0.02 * (points.max() - points.min())
    until(big(page, "map"), explorer.point(chosen).decoded)
    click(plot["left"] + 8, plot["top"] + 8)  # a corner: no dot is near
    until(lambda: asked("point"), "-1")
    x, y = float(asked("x")), float(asked("y"))
    assert x < points[:, 0].min() and y > points[:, 1].max()
    until(big(page, "map"), explorer.place(x, y).decoded)
    # Hover over a dot: its text.
    px, py = (float(v) for v in points[7])
    hx, hy = page.evaluate(TO_SCREEN, [px, py])
    page.mouse.move(hx - 3, hy)
    page.mouse.move(hx, hy)
    tip = page.locator(".bk-Tooltip div")
    until(lambda: any(explorer.texts[7] in t for t in tip.all_text_contents()), True)
    # Drag over everything: all are selected.
    page.mouse.move(plot["left"] + 2, plot["top"] + 2)
    page.mouse.down()
    page.mouse.move(plot["left"] + 100, plot["top"] + 100)
    page.mouse.move(plot["left"] + plot["width"] - 2, plot["top"] + plot["height"] - 2)
    page.mouse.up()
    told = f"{len(explorer.texts)} texts selected"
    until(lambda: told in said(page, ".view-map .selected"), True)


def test_texts_are_found_and_stay_texts(page, served):
    explorer = served[1]
    opened(page, "map")
    wanted = EVIL if EVIL in explorer.texts else explorer.texts[3]
    field = page.locator(".view-map input").last
    field.fill(wanted)
    field.press("Enter")
    until(lambda: wanted in said(page, ".view-map .selected"), True)
    assert page.locator(".view-map .selected script").count() == 0
    number = page.locator(".view-map input.bk-input").nth(0)
    number.fill(str(explorer.texts.index(wanted)))
    number.press("Enter")
    until(big(page, "map"), explorer.point(explorer.texts.index(wanted)).decoded)
    assert page.locator(".view-map .answer script").count() == 0


def test_around_by_keyboard(page, served):
    explorer = served[1]
    opened(page, "around")
    typed(page, "around", 0, A)
    grid = [[shown(t) for t in row] for row in explorer.grid(A, 0, 1)]
    until(cells(page, "around", "grid"), grid)
    handle = page.locator(".view-around .slider-d1 .noUi-handle")
    handle.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    until(lambda: float(handle.get_attribute("aria-valuenow")), 0.4)
    until(big(page, "around"), explorer.around(A, {1: 0.4}))
    page.locator(".view-around .slider-amount .noUi-handle").focus()
    page.keyboard.press("End")
    until(big(page, "around"), explorer.around(A, {1: 0.4}, {0: 3.0}))


def test_arithmetic_and_its_code(page, served):
    explorer = served[1]
    opened(page, "arithmetic")
    for i, text in enumerate((A, B, C)):
        typed(page, "arithmetic", i, text)
    answer = explorer.arithmetic(A, B, C)
    until(big(page, "arithmetic"), answer.text)
    near = [[shown(n.text), f"{n.distance:.3f}"] for n in answer.near]
    until(cells(page, "arithmetic", "rest"), near)
    copies = [[c.name, c.text, str(c.edits), f"{c.cosine:.3f}"] for c in answer.copies]
    assert cells(page, "arithmetic", "rest", 1)() == copies
    page.click(".view-arithmetic .copy-code button")
    until(lambda: "explorer.arithmetic" in page.evaluate("navigator.clipboard.readText()"), True)
    code = page.evaluate("navigator.clipboard.readText()")
    assert page.locator(".view-arithmetic .code pre").text_content() == code
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.split("explorer = ")[-1].split("\n", 1)[1], {"explorer": explorer})
    assert out.getvalue() == f"{answer}\n"


def test_samples_and_files(page, served):
    explorer = served[1]
    opened(page, "samples")
    until(lambda: [r[0] for r in cells(page, "samples", "answer")()],
          [shown(t) for t in explorer.samples().texts])  # fmt: skip
    option(page, "samples", 0, "fitted Gaussian")
    handle = page.locator(".view-samples .slider-temperature .noUi-handle")
    handle.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    made = explorer.samples("gaussian", 16, 0.05)
    until(lambda: [r[0] for r in cells(page, "samples", "answer")()],
          [shown(t) for t in made.texts])  # fmt: skip
    assert f"{made.valid:.0%} parse" in said(page, ".view-samples .answer")
    for kind, start in (("csv", b"text,validity"), ("png", b"\x89PNG"), ("svg", b"<?xml")):
        with page.expect_download() as download:
            page.click(f".view-samples .get-{kind} a, .view-samples .get-{kind} button")
        with open(download.value.path(), "rb") as file:
            assert file.read().startswith(start), kind
    option(page, "samples", 0, "learned flow")
    until(lambda: "Not done" in said(page, ".view-samples .error-line"), True)


def test_reconstruct_and_bad_input(page, served):
    explorer = served[1]
    opened(page, "reconstruct")
    typed(page, "reconstruct", 0, "a😀b")
    answer = explorer.reconstruct("a😀b")
    until(big(page, "reconstruct"), answer.made)
    css = ".view-reconstruct .rest"
    until(lambda: ("characters to mend" in said(page, css)) == (not answer.exact), True)
    assert page.locator(f"{css} ins").all_text_contents() == [p.new for p in answer.pieces
                                                       if not p.same and p.new]  # fmt: skip
    assert (answer.lost in said(page, css)) if answer.lost else True
    error = ".view-reconstruct .error-line"
    for text, told in (("", "is empty"), ("x " * 200, "the model's limit is"),
                       ("y" * 2001, "2001 characters")):  # fmt: skip
        typed(page, "reconstruct", 0, text)
        until(lambda told=told: told in said(page, error), True)
    typed(page, "reconstruct", 0, C)
    until(big(page, "reconstruct"), explorer.reconstruct(C).made)
    until(lambda: said(page, error).strip(), "")


def test_the_strip_is_always_there(page, served):
    explorer = served[1]
    strip = page.locator(".honesty")
    for name in ("map", "samples", "between"):
        opened(page, name)
        told = said(page, ".honesty")
        assert strip.is_visible() and all(
            f.name in told and f.value in told for f in explorer.about
        )


def test_keyboard_reaches_every_view(page, served):
    from flaxae.explore.views import VIEWS

    opened(page, "reconstruct")
    page.locator("h1").click()
    for name in VIEWS:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        until(lambda name=name: page.locator(f".view-{name}").count(), 1)


# Bokeh's own view of the plot: where its frame is on the screen, and where a point of it is.
_PLOT = """
  const views = [];
  const walk = (view) => {
    views.push(view);
    for (const child of view.children()) walk(child);
  };
  for (const root of Object.values(Bokeh.index)) walk(root);
  const plot = views.find((v) => v.model.type == "Figure");
  const frame = plot.frame, box = plot.canvas_view.el.getBoundingClientRect();
"""
FRAME = f"""() => {{ {_PLOT}
  return {{left: box.left + frame.bbox.left, top: box.top + frame.bbox.top,
           width: frame.bbox.width, height: frame.bbox.height}};
}}"""
TO_SCREEN = f"""([x, y]) => {{ {_PLOT}
  return [box.left + frame.x_scale.compute(x), box.top + frame.y_scale.compute(y)];
}}"""
