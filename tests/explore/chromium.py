"""A headless Chromium, and how its pages are read: for the explorer's tests and the notebook's."""

import contextlib
import os
import time
from urllib.parse import urlparse

import pytest

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
HANDLE = ".noUi-handle"


@contextlib.contextmanager
def launched():
    """A browser with a fresh profile; its event loop runs in this thread until it is closed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if not os.path.exists(CHROMIUM):
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as p:
        made = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        yield made
        made.close()


class Watched:
    """A page of its own context; what it asked and what it complained of is kept.

    Attributes:
        page: Playwright's.
        hosts: that it sent requests to.
        errors: of its console, and those that nobody caught.
    """

    def __init__(self, browser, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.hosts, self.errors = set(), []
        self.context.on("request", lambda r: self.hosts.add(urlparse(r.url).netloc))
        self.page.on("websocket", lambda w: self.hosts.add(urlparse(w.url).netloc))
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))

    def _said(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def quiet(self, url):
        """It asked no other host and reported no error."""
        assert self.hosts - {""} == {urlparse(url).netloc}
        assert self.errors == [], self.errors


def until(read, wanted, seconds=30):
    """Waits until the page shows what is wanted, and fails with what it shows instead."""
    end = time.monotonic() + seconds
    while (found := read()) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    assert found == wanted, f"{found!r}, not {wanted!r}"


def opened(page, name):
    page.click(f".to-{name} button")
    page.wait_for_selector(f".view-{name}")


def typed(page, view, number, text):
    field = page.locator(f".view-{view} .input-text input").nth(number)
    field.fill(text)
    field.press("Enter")


def big(page, view):
    """Reads the answer that a view is about."""
    found = page.locator(f".view-{view} .answer .big")
    return lambda: found.first.text_content() if found.count() else None


def said(page, css):
    """The text of a pane; "" where it is empty."""
    found = page.locator(f"{css} div")
    return found.first.inner_text() if found.count() else ""


def value(handle):
    """Where a slider stands."""
    return float(handle.get_attribute("aria-valuenow"))
