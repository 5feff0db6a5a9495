"""Every view in a real browser: the page shows the answers of `Explorer`."""

import contextlib
import io
import time
from urllib.parse import parse_qs, urlparse

import pytest

from tests.explore.chromium import WatchedPage, answer_of, open_view, text_of, type_text, wait_for
from tests.explore.conftest import EVIL

A, B, C = "count = 1", "self = 7", "import os"


@pytest.fixture(scope="module")
def page(served, browser):
    """Provide a page that must send no request to another host and report no error."""
    url, _ = served
    watched = WatchedPage(browser, viewport={"width": 1000, "height": 900}, accept_downloads=True)
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    made = watched.page
    made.goto(url)
    made.wait_for_selector(".view-between")
    yield made
    watched.assert_quiet(url)
    watched.context.close()


def cells(page, view, pane, table=0):
    """Return a function that reads the rows of a table."""
    found = page.locator(f".view-{view} .{pane} table").nth(table).locator("tbody tr")
    return lambda: [row.locator("td").all_text_contents() for row in found.all()]


def option(page, view, label, value):
    page.locator(f".view-{view} select").nth(label).select_option(value)


def shown(text):
    return text or "(empty)"


def test_between_two_texts(page, served):
    explorer = served[1]
    type_text(page, "between", 0, A)
    type_text(page, "between", 1, B)
    wait_for(answer_of(page, "between"), explorer.between_at(A, B, 50))
    path = explorer.between(A, B)
    read = cells(page, "between", "path")
    wait_for(lambda: [row[1] for row in read()], [shown(t) for t in path.texts])
    marks = [row[2] for row in read()]
    assert ["repeats" in m for m in marks] == path.repeats
    assert ["does not" not in m for m in marks] == path.parses
    note = text_of(page, ".view-between .path")
    assert f"Path ratio {path.path_ratio:.2f}" in note and f"step {path.largest_step:.2f}" in note
    handle = page.locator(".view-between .slider-at .noUi-handle")
    box = handle.bounding_box()
    track = page.locator(".view-between .slider-at .noUi-base").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.55, 0.7, 0.85, 0.9):
        page.mouse.move(track["x"] + share * track["width"], box["y"] + 5)
    page.mouse.up()
    wait_for(lambda: 85 <= int(handle.get_attribute("aria-valuenow").split(".")[0]) <= 95, True)
    at = int(float(handle.get_attribute("aria-valuenow")))
    wait_for(answer_of(page, "between"), explorer.between_at(A, B, at))
    option(page, "between", 0, "lerp (straight)")
    wait_for(answer_of(page, "between"), explorer.between_at(A, B, at, "lerp"))
    option(page, "between", 0, "denoised (decoded and encoded again)")
    texts = [shown(t) for t in explorer.between(A, B, "denoised").texts]
    wait_for(lambda: [row[1] for row in read()], texts)
    name = "By this run's evaluation" if explorer.best_path[1] else "This run's evaluation compares"
    assert name in note


def test_a_link_restores_the_view(page, served, browser):
    explorer = served[1]
    open_view(page, "neighbours")
    type_text(page, "neighbours", 0, C)
    option(page, "neighbours", 0, "Euclidean")
    wanted = [
        [str(n.index), n.text, f"{n.distance:.3f}"] for n in explorer.neighbours(C, 10, "euclid")
    ]
    wait_for(cells(page, "neighbours", "answer"), wanted)
    wait_for(lambda: parse_qs(urlparse(page.url).query).get("metric"), ["euclid"])
    page.click(".view-neighbours .copy-link button")
    link = page.evaluate("navigator.clipboard.readText()")
    page.goto("about:blank")
    page.goto(link)
    wait_for(cells(page, "neighbours", "answer"), wanted)
    page.goto(link.replace("model=", "model=0bad").replace("metric=euclid", "metric=taxi"))
    page.wait_for_selector(".view-neighbours")
    wait_for(lambda: "another model" in text_of(page, ".notice"), True)
    assert "metric='taxi'" in text_of(page, ".notice")
    wait_for(lambda: len(cells(page, "neighbours", "answer")()), 10)


def test_map_and_its_mouse(page, served):
    explorer = served[1]
    open_view(page, "map")
    wait_for(answer_of(page, "map"), explorer.place(0.0, 0.0).decoded)
    number = page.locator(".view-map input.bk-input").nth(0)
    number.fill("7")
    number.press("Enter")
    point = explorer.point(7)
    wait_for(answer_of(page, "map"), point.decoded)
    near = [[shown(n.text), f"{n.distance:.3f}"] for n in point.near]
    wait_for(cells(page, "map", "answer"), near)
    plot, points = page.evaluate(FRAME), explorer.pca()

    def parameter(name):
        return parse_qs(urlparse(page.url).query)[name][0]

    def click(x, y):
        page.mouse.click(x, y)
        time.sleep(1)  # until then a second click would make it a double click
        page.mouse.move(x + 40, y + 40)  # the browser reports the tap when the mouse moves

    click(*page.evaluate(TO_SCREEN, [float(v) for v in points[20]]))
    wait_for(lambda: parameter("point") != "7", True)
    chosen = int(parameter("point"))
    assert abs(points[chosen] - points[20]).max() < 0.02 * (points.max() - points.min())
    wait_for(answer_of(page, "map"), explorer.point(chosen).decoded)
    click(plot["left"] + 8, plot["top"] + 8)  # a corner without a dot
    wait_for(lambda: parameter("point"), "-1")
    x, y = float(parameter("x")), float(parameter("y"))
    assert x < points[:, 0].min() and y > points[:, 1].max()
    wait_for(answer_of(page, "map"), explorer.place(x, y).decoded)
    # Hover over a dot: the tooltip shows its text.
    px, py = (float(v) for v in points[7])
    hx, hy = page.evaluate(TO_SCREEN, [px, py])
    page.mouse.move(hx - 3, hy)
    page.mouse.move(hx, hy)
    tip = page.locator(".bk-Tooltip div")
    wait_for(lambda: any(explorer.texts[7] in t for t in tip.all_text_contents()), True)
    # Drag over everything: all dots are selected.
    page.mouse.move(plot["left"] + 2, plot["top"] + 2)
    page.mouse.down()
    page.mouse.move(plot["left"] + 100, plot["top"] + 100)
    page.mouse.move(plot["left"] + plot["width"] - 2, plot["top"] + plot["height"] - 2)
    page.mouse.up()
    note = f"{len(explorer.texts)} texts selected"
    wait_for(lambda: note in text_of(page, ".view-map .selected"), True)


def test_found_texts_are_escaped(page, served):
    explorer = served[1]
    open_view(page, "map")
    wanted = EVIL if EVIL in explorer.texts else explorer.texts[3]
    field = page.locator(".view-map input").last
    field.fill(wanted)
    field.press("Enter")
    wait_for(lambda: wanted in text_of(page, ".view-map .selected"), True)
    assert page.locator(".view-map .selected script").count() == 0
    number = page.locator(".view-map input.bk-input").nth(0)
    number.fill(str(explorer.texts.index(wanted)))
    number.press("Enter")
    wait_for(answer_of(page, "map"), explorer.point(explorer.texts.index(wanted)).decoded)
    assert page.locator(".view-map .answer script").count() == 0


def test_around_a_text_by_keyboard(page, served):
    explorer = served[1]
    open_view(page, "around")
    type_text(page, "around", 0, A)
    grid = [[shown(t) for t in row] for row in explorer.grid(A, 0, 1)]
    wait_for(cells(page, "around", "grid"), grid)
    handle = page.locator(".view-around .slider-d1 .noUi-handle")
    handle.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    wait_for(lambda: float(handle.get_attribute("aria-valuenow")), 0.4)
    wait_for(answer_of(page, "around"), explorer.around(A, {1: 0.4}))
    page.locator(".view-around .slider-amount .noUi-handle").focus()
    page.keyboard.press("End")
    wait_for(answer_of(page, "around"), explorer.around(A, {1: 0.4}, {0: 3.0}))
    page.locator(".view-around .slider-noise .noUi-handle").focus()
    page.keyboard.press("End")
    moved = A, {1: 0.4}, {0: 3.0}, explorer.max_noise
    wait_for(answer_of(page, "around"), explorer.around(*moved))


def test_arithmetic_and_its_copied_code(page, served):
    explorer = served[1]
    open_view(page, "arithmetic")
    for i, text in enumerate((A, B, C)):
        type_text(page, "arithmetic", i, text)
    answer = explorer.arithmetic(A, B, C)
    wait_for(answer_of(page, "arithmetic"), answer.text)
    near = [[shown(n.text), f"{n.distance:.3f}"] for n in answer.near]
    wait_for(cells(page, "arithmetic", "rest"), near)
    copies = [[c.name, c.text, str(c.edits), f"{c.cosine:.3f}"] for c in answer.copies]
    assert cells(page, "arithmetic", "rest", 1)() == copies
    page.click(".view-arithmetic .copy-code button")
    wait_for(lambda: "explorer.arithmetic" in page.evaluate("navigator.clipboard.readText()"), True)
    code = page.evaluate("navigator.clipboard.readText()")
    assert page.locator(".view-arithmetic .code pre").text_content() == code
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.split("explorer = ")[-1].split("\n", 1)[1], {"explorer": explorer})
    assert out.getvalue() == f"{answer}\n"


def test_samples_and_their_files(page, served):
    explorer = served[1]
    open_view(page, "samples")
    texts = [shown(t) for t in explorer.samples().texts]
    wait_for(lambda: [r[0] for r in cells(page, "samples", "answer")()], texts)
    option(page, "samples", 0, "fitted Gaussian")
    handle = page.locator(".view-samples .slider-temperature .noUi-handle")
    handle.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    made = explorer.samples("gaussian", 16, 0.05)
    texts = [shown(t) for t in made.texts]
    wait_for(lambda: [r[0] for r in cells(page, "samples", "answer")()], texts)
    assert f"{made.valid:.0%} parse" in text_of(page, ".view-samples .answer")
    for kind, start in (("csv", b"text,validity"), ("png", b"\x89PNG"), ("svg", b"<?xml")):
        with page.expect_download() as download:
            page.click(f".view-samples .get-{kind} a, .view-samples .get-{kind} button")
        with open(download.value.path(), "rb") as file:
            assert file.read().startswith(start), kind
    for name in ("words", "noise"):
        page.locator(f".view-samples .slider-{name} .noUi-handle").focus()
        page.keyboard.press("End")
    made = explorer.samples("gaussian", 16, 0.05, 0, 2.0, explorer.max_noise)
    texts = [shown(t) for t in made.texts]
    wait_for(lambda: [r[0] for r in cells(page, "samples", "answer")()], texts)
    option(page, "samples", 0, "learned flow")
    wait_for(lambda: "Error" in text_of(page, ".view-samples .error-line"), True)


def test_reconstruction_and_input_errors(page, served):
    explorer = served[1]
    open_view(page, "reconstruct")
    type_text(page, "reconstruct", 0, "a😀b")
    answer = explorer.reconstruct("a😀b")
    wait_for(answer_of(page, "reconstruct"), answer.decoded)
    css = ".view-reconstruct .rest"
    wait_for(lambda: ("Edit distance" in text_of(page, css)) == (not answer.exact), True)
    inserted = [part.new for part in answer.diff if not part.same and part.new]
    assert page.locator(f"{css} ins").all_text_contents() == inserted
    assert (answer.lost in text_of(page, css)) if answer.lost else True
    error = ".view-reconstruct .error-line"
    for text, message in (
        ("", "is empty"),
        ("x " * 200, "the model's limit is"),
        ("y" * 2001, "2001 characters"),
    ):
        type_text(page, "reconstruct", 0, text)
        wait_for(lambda message=message: message in text_of(page, error), True)
    type_text(page, "reconstruct", 0, C)
    wait_for(answer_of(page, "reconstruct"), explorer.reconstruct(C).decoded)
    wait_for(lambda: text_of(page, error).strip(), "")


def test_the_strip_is_visible_in_every_view(page, served):
    explorer = served[1]
    strip = page.locator(".honesty")
    for name in ("map", "samples", "between"):
        open_view(page, name)
        shown_facts = text_of(page, ".honesty")
        assert strip.is_visible() and all(
            f.name in shown_facts and f.value in shown_facts for f in explorer.about
        )


def test_keyboard_reaches_every_view(page, served):
    from flaxae.explore.views import VIEWS

    open_view(page, "reconstruct")
    page.locator("h1").click()
    for name in VIEWS:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        wait_for(lambda name=name: page.locator(f".view-{name}").count(), 1)


# Bokeh's own view of the plot: the place of its frame, and of a point, on the screen.
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
