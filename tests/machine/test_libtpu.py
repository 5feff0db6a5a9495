"""The flags that libtpu reads when it is loaded."""

import os

import pytest

from flaxae.machine import distributed, libtpu

(NAME,) = libtpu.FLAGS


@pytest.mark.parametrize("given", ["", "--xla_other=1"])
def test_flags_are_added(given, monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", given)
    distributed.initialize()
    distributed.initialize()  # once
    flags = f"{NAME}={libtpu.FLAGS[NAME]}"
    assert os.environ["LIBTPU_INIT_ARGS"] == f"{given} {flags}".strip()


def test_a_flag_that_is_set_already_stays(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"{NAME}=3")
    libtpu.set_flags()
    assert os.environ["LIBTPU_INIT_ARGS"] == f"{NAME}=3"
