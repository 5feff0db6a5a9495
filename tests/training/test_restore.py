"""A run is resumed only with the data and the frozen part that it began with."""

import dataclasses
from pathlib import Path

import pytest

from flaxae.errors import ConfigError
from flaxae.storage.checkpoint import Checkpointer
from tests.helpers import assert_same, flat
from tests.training.conftest import Steps


def test_a_run_with_another_data_fingerprint_is_not_resumed(
    steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, state = steps.setup, steps.take(1)[-1]
    with_one = dataclasses.replace(setup, checkpointer=Checkpointer(tmp_path, setup.config.save))
    with_one.checkpointer.save(1, state, setup.extra(), wait=True)
    assert setup.extra() == {"frozen": setup.frozen.fingerprint, "data": "problems-0"}
    assert_same(flat(steps.restored(with_one)), flat(state))
    for part, name in ((setup.feed, "data"), (setup.frozen, "frozen")):
        with monkeypatch.context() as m:
            m.setattr(part, "fingerprint", "another")
            with pytest.raises(ConfigError, match=f"its {name} part has changed .*now another"):
                steps.restored(with_one)
    with_one.checkpointer.close()
