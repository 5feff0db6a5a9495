"""The fake bucket of the tests of files in buckets."""

import importlib.util
import os
from collections.abc import Iterator

import pytest

from tests.fake_gcs import Server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[Server]:
    """One server per process: clients keep the address that they began with."""
    # gcsfs is not imported to look for it: it reads the environment when it is imported.
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("needs gcsfs")
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def one_server(gcs_server: Server) -> Iterator[Server]:
    """Return the server; programs find it by their environment."""
    old = dict(os.environ)
    os.environ.update(gcs_server.environment)
    yield gcs_server
    os.environ.clear()
    os.environ.update(old)
