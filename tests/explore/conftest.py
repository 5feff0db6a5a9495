"""Servers of the explorer, and a browser."""

import os
import threading

import pytest

from tests.explore.chromium import launched
from tests.explore.server import explorer_of
from tests.explore.tiny import LINES
from tests.helpers import start

EVIL = "<script>a()"
WORKDIR = "FLAXAE_EXPLORE_WORKDIR"  # a trained one: the browser's tests use it as well


def serving(*args):
    """A server's process and its address."""
    process = start(["-m", "tests.explore.server", *args])
    threading.Thread(target=lambda: process.stderr.read(), daemon=True).start()
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:"), url
    return process, url


def stop(process):
    process.kill()
    process.wait(30)


@pytest.fixture(scope="session")
def lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    path.write_text("\n".join([*LINES, EVIL]))
    return str(path)


# A trained run is explored too where the environment names one.
@pytest.fixture(scope="session", params=["letters", *["trained"] * bool(os.environ.get(WORKDIR))])
def served(request, lines):
    """(address, the same explorer in this process)."""
    source = lines if request.param == "letters" else os.environ[WORKDIR]
    process, url = serving(source)
    yield url, explorer_of(source)
    stop(process)


@pytest.fixture(scope="module")  # its event loop runs in this thread until it is closed
def browser():
    with launched() as made:
        yield made
