"""A headless Chromium, and functions that read its pages, for the explorer and the notebook."""

import contextlib
import os
import time
from urllib.parse import urlparse

import pytest

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)
HANDLE = ".noUi-handle"


@contextlib.contextmanager
def launch():
    """Launch a browser; its event loop runs in this thread until it is closed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if not os.path.exists(CHROMIUM):
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as p:
        made = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        yield made
        made.close()


class WatchedPage:
    """A page in a separate browser context, whose requests and errors are recorded.

    Attributes:
        page: Playwright's page.
        hosts: hosts that the page sent requests to.
        errors: error messages of its console, and uncaught errors.
    """

    def __init__(self, browser, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.hosts, self.errors = set(), []
        self.context.on("request", lambda r: self.hosts.add(urlparse(r.url).netloc))
        self.page.on("websocket", lambda w: self.hosts.add(urlparse(w.url).netloc))
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))

    def _on_console(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def assert_quiet(self, url):
        """Assert that the page sent requests to its own host only, and had no errors."""
        assert self.hosts - {""} == {urlparse(url).netloc}
        assert self.errors == [], self.errors


def wait_for(read, expected, seconds=30):
    """Wait until `read()` returns the expected value; fail with what it returns instead."""
    end = time.monotonic() + seconds
    while (found := read()) != expected and time.monotonic() < end:
        time.sleep(0.05)
    assert found == expected, f"{found!r}, not {expected!r}"


def open_view(page, name):
    page.click(f".to-{name} button")
    page.wait_for_selector(f".view-{name}")


def type_text(page, view, number, text):
    """Type a text into a field of a view."""
    field = page.locator(f".view-{view} .input-text input").nth(number)
    field.fill(text)
    field.press("Enter")


def answer_of(page, view):
    """Return a function that reads the main answer of a view."""
    found = page.locator(f".view-{view} .answer .big")
    return lambda: found.first.text_content() if found.count() else None


def text_of(page, css):
    """Return the text of a pane; "" if it is empty."""
    found = page.locator(f"{css} div")
    return found.first.inner_text() if found.count() else ""


def slider_value(handle):
    """Return the value of a slider."""
    return float(handle.get_attribute("aria-valuenow"))
