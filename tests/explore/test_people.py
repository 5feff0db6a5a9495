"""Eight users in eight browser contexts over one server: each has a separate page."""

import contextlib
import time

import pytest

from tests.explore.chromium import (
    HANDLE,
    WatchedPage,
    answer_of,
    launch,
    slider_value,
    type_text,
    wait_for,
)
from tests.explore.conftest import start_server, stop_server
from tests.explore.server import open_explorer

USERS = 8


@pytest.mark.slow
def test_eight_users_see_only_their_own_answers(lines):
    explorer = open_explorer(lines)
    process, url = start_server(lines, "", "", "0.05")  # slow, so that requests wait for each other
    try:
        use(url, explorer)
    finally:
        stop_server(process)


def use(url, explorer):
    words = [chr(97 + i) * 3 for i in range(USERS)]
    with launch() as browser, contextlib.ExitStack() as stack:
        users = [WatchedPage(browser, viewport={"width": 700, "height": 700}) for _ in words]
        for user in users:
            stack.callback(user.context.close)
            user.page.goto(url)
        for user, word in zip(users, words, strict=True):
            page = user.page
            page.wait_for_selector(".view-between .answer .big")
            # Record every text that the page shows.
            page.evaluate(RECORD)
            page.locator(".view-between select").select_option("lerp (straight)")
            type_text(page, "between", 0, word)
            type_text(page, "between", 1, f"{word}12345")
        for user, word in zip(users, words, strict=True):
            wanted = explorer.between_at(word, f"{word}12345", 50, "lerp")
            wait_for(answer_of(user.page, "between"), wanted)
            user.page.evaluate("window.seen.length = 0")
        # All sliders move at the same time: each user in turn presses a key.
        for user in users:
            user.page.locator(f".view-between .slider-at {HANDLE}").focus()
        for turn in range(12):
            for i, user in enumerate(users):
                user.page.keyboard.press("ArrowRight" if (turn + i) % 3 else "ArrowLeft")
        for user, word in zip(users, words, strict=True):
            page = user.page
            at = int(slider_value(page.locator(f".view-between .slider-at {HANDLE}")))
            ends = word, f"{word}12345"
            wait_for(answer_of(page, "between"), explorer.between_at(*ends, at, "lerp"))
            # Every text that was shown belongs to this user, at a position near the slider.
            own = {explorer.between_at(*ends, x, "lerp") for x in range(30, 71)}
            assert set(page.evaluate("window.seen")) <= own
        time.sleep(1)  # no late answer may arrive
        for user, word in zip(users, words, strict=True):
            page = user.page
            at = int(slider_value(page.locator(f".view-between .slider-at {HANDLE}")))
            wanted = explorer.between_at(word, f"{word}12345", at, "lerp")
            assert answer_of(page, "between")() == wanted
            assert page.evaluate("window.seen.at(-1)") in (wanted, None)
            user.assert_quiet(url)


# The page's parts are in shadow roots, and each answer is a new element: look often.
RECORD = """() => {
  window.seen = [];
  const find = (root) => {
    for (const el of root.querySelectorAll("*")) {
      if (el.classList.contains("big")) return el;
      const found = el.shadowRoot && find(el.shadowRoot);
      if (found) return found;
    }
  };
  setInterval(() => {
    const text = find(document)?.textContent;
    if (text != null && text !== window.seen.at(-1)) window.seen.push(text);
  }, 20);
}"""
