"""Eight people in eight browsers' contexts over one server: each has their own state."""

import contextlib
import time

import pytest

from tests.explore.chromium import HANDLE, Watched, big, launched, typed, until, value
from tests.explore.conftest import serving, stop
from tests.explore.server import explorer_of

PEOPLE = 8


@pytest.mark.slow
def test_eight_people_in_eight_contexts(lines):
    explorer = explorer_of(lines)
    process, url = serving(lines, "", "", "0.05")  # slow, so that all wait for each other
    try:
        use(url, explorer)
    finally:
        stop(process)


def use(url, explorer):
    words = [chr(97 + i) * 3 for i in range(PEOPLE)]
    with launched() as browser, contextlib.ExitStack() as stack:
        people = [Watched(browser, viewport={"width": 700, "height": 700}) for _ in words]
        for person in people:
            stack.callback(person.context.close)
            person.page.goto(url)
        for person, word in zip(people, words, strict=True):
            page = person.page
            page.wait_for_selector(".view-between .answer .big")
            # Every text that this person is ever shown is kept.
            page.evaluate(KEEP)
            page.locator(".view-between select").select_option("lerp (straight)")
            typed(page, "between", 0, word)
            typed(page, "between", 1, f"{word}12345")
        for person, word in zip(people, words, strict=True):
            wanted = explorer.between_at(word, f"{word}12345", 50, "lerp")
            until(big(person.page, "between"), wanted)
            person.page.evaluate("window.seen.length = 0")
        # All move at once: each presses a key that moves their slider, turn by turn.
        for person in people:
            person.page.locator(f".view-between .slider-at {HANDLE}").focus()
        for turn in range(12):
            for i, person in enumerate(people):
                person.page.keyboard.press("ArrowRight" if (turn + i) % 3 else "ArrowLeft")
        for person, word in zip(people, words, strict=True):
            page = person.page
            at = int(value(page.locator(f".view-between .slider-at {HANDLE}")))
            ends = word, f"{word}12345"
            until(big(page, "between"), explorer.between_at(*ends, at, "lerp"))
            # What was shown on the way was this person's own, at places near their slider.
            own = {explorer.between_at(*ends, x, "lerp") for x in range(30, 71)}
            assert set(page.evaluate("window.seen")) <= own
        time.sleep(1)  # nobody is answered late
        for person, word in zip(people, words, strict=True):
            page = person.page
            at = int(value(page.locator(f".view-between .slider-at {HANDLE}")))
            wanted = explorer.between_at(word, f"{word}12345", at, "lerp")
            assert big(page, "between")() == wanted
            assert page.evaluate("window.seen.at(-1)") in (wanted, None)
            person.quiet(url)


# The page's parts are in shadow roots, and an answer is put in anew each time: look often.
KEEP = """() => {
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
