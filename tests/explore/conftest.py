"""Fixtures: servers of the explorer, and a browser."""

import os
import threading

import pytest

from tests.explore.chromium import launch
from tests.explore.server import open_explorer
from tests.explore.tiny import LINES
from tests.helpers import start

EVIL = "<script>a()"
WORKDIR = "FLAXAE_EXPLORE_WORKDIR"  # a trained run that the browser tests explore as well


def start_server(*args):
    """Start a server, and return its process and its address."""
    process = start(["-m", "tests.explore.server", *args])
    threading.Thread(target=lambda: process.stderr.read(), daemon=True).start()
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:"), url
    return process, url


def stop_server(process):
    process.kill()
    process.wait(30)


@pytest.fixture(scope="session")
def lines(tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    path.write_text("\n".join([*LINES, EVIL]))
    return str(path)


@pytest.fixture(scope="session", params=["letters", *["trained"] * bool(os.environ.get(WORKDIR))])
def served(request, lines):
    """Serve an explorer; provide its address and the same explorer in this process."""
    source = lines if request.param == "letters" else os.environ[WORKDIR]
    process, url = start_server(source)
    yield url, open_explorer(source)
    stop_server(process)


@pytest.fixture(scope="module")  # its event loop runs in this thread until it is closed
def browser():
    with launch() as made:
        yield made
