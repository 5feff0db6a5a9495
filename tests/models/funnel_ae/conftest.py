"""The workdir of an untrained model of texts, for all files of tests."""

import pytest

from tests.models.funnel_ae.tiny import texts, write_run


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("funnel")
    write_run(texts(folder), folder / "run")
    return folder / "run"
