"""The explorer over a Funnel AE's run: the API's answers, in Python and in a browser."""

import contextlib

import numpy as np
import pytest

import flaxae
from flaxae.models.t5_vae.prior.codes import Codes
from flaxae.text_autoencoder import protocol
from tests.explore.chromium import WatchedPage, answer_of, open_view, text_of, type_text, wait_for
from tests.explore.conftest import browser, start_server, stop_server  # noqa: F401
from tests.explore.server import open_explorer

A, B, C = "import self", "return (x) value", "import in"


@pytest.fixture(scope="module")
def explorer(workdir):
    return open_explorer(str(workdir))


def test_answers_equal_those_of_the_model_api(explorer):
    ae = explorer.model
    assert isinstance(ae, flaxae.FunnelAE) and isinstance(explorer.model, protocol.Autoencoder)
    for how in ("slerp", "lerp"):
        assert explorer.between(A, B, how).texts == ae.interpolate(A, B, 11, how)
    assert explorer.arithmetic(A, B, C).text == ae.analogy(A, B, C)
    assert explorer.samples("gaussian", 5, 0.7, 3).texts == ae.sample(5, 0.7, "gaussian", 3)
    assert explorer.reconstruct(A).decoded == ae.reconstruct([A])[0]
    near = [n.text for n in explorer.neighbours(A, 5)]
    assert near == [text for text, _ in ae.nearest(A, explorer.texts, 5)]


def test_codes_for_a_learned_prior_are_those_of_the_model(explorer, workdir, tmp_path):
    codes = Codes(str(workdir), num_lines=20, cache=str(tmp_path))
    assert codes.dim == 16
    wanted = explorer.model.encode(codes.lines("train")).reshape(20, 16)
    np.testing.assert_allclose(codes.codes("train"), wanted, atol=1e-5)


@contextlib.contextmanager
def opened(workdir, browser):  # noqa: F811
    process, url = start_server(str(workdir))
    try:
        watched = WatchedPage(browser, viewport={"width": 1000, "height": 900})
        watched.page.goto(url)
        watched.page.wait_for_selector(".view-between")
        yield watched.page
        watched.assert_quiet(url)
        watched.context.close()
    finally:
        stop_server(process)


@pytest.mark.slow  # another process compiles the model again
def test_every_view_shows_the_answers_in_a_browser(workdir, explorer, browser):  # noqa: F811
    with opened(workdir, browser) as page:

        def cells(view, pane, table=0):
            found = page.locator(f".view-{view} .{pane} table").nth(table).locator("tbody tr")
            return lambda: [row.locator("td").first.text_content() for row in found.all()]

        def shown(texts):
            return [text or "(empty)" for text in texts]

        type_text(page, "between", 0, A)
        type_text(page, "between", 1, B)
        wait_for(answer_of(page, "between"), explorer.between_at(A, B, 50))
        open_view(page, "around")
        type_text(page, "around", 0, A)
        wait_for(answer_of(page, "around"), explorer.around(A))
        open_view(page, "map")
        number = page.locator(".view-map input.bk-input").nth(0)
        number.fill("3")
        number.press("Enter")
        wait_for(answer_of(page, "map"), explorer.point(3).decoded)
        open_view(page, "neighbours")
        type_text(page, "neighbours", 0, C)
        near = [str(n.index) for n in explorer.neighbours(C, 10)]
        wait_for(cells("neighbours", "answer"), near)
        open_view(page, "arithmetic")
        for i, text in enumerate((A, B, C)):
            type_text(page, "arithmetic", i, text)
        wait_for(answer_of(page, "arithmetic"), explorer.arithmetic(A, B, C).text)
        open_view(page, "samples")
        wait_for(cells("samples", "answer"), shown(explorer.samples().texts))
        open_view(page, "reconstruct")
        type_text(page, "reconstruct", 0, A)
        wait_for(answer_of(page, "reconstruct"), explorer.reconstruct(A).decoded)
        assert "trained on" in text_of(page, ".honesty")
