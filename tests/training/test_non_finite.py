"""When a run, or a lane, counts as failed, and what the message names."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flaxae.config import Config
from flaxae.errors import NonFiniteError
from flaxae.training.non_finite import check_finite


@pytest.fixture
def setup(tmp_path: Path) -> Any:
    """Make the parts of a run that the check reads."""
    folders = [tmp_path / name for name in ("00", "01")]
    for folder in folders:
        folder.mkdir()
    source = SimpleNamespace(batch=lambda step: {"a": {"x": np.full(3, step)}})
    saved = SimpleNamespace(wait=lambda: None, steps=lambda: [4, 8])
    return SimpleNamespace(
        config=Config(max_bad_steps=2),
        lanes=0,
        lane_dirs=folders,
        main=True,
        workdir=tmp_path,
        feed=SimpleNamespace(sources=[source]),
        checkpointer=saved,
    )


@pytest.mark.parametrize(
    ("bad", "step"), [([3], 11), ([0, 1, 2, 3], 11), ([1, 2, 3, 4], 10), ([3, 3, 3, 3], 8)]
)
def test_the_first_step_past_the_limit_is_named(setup: Any, bad: list[int], step: int) -> None:
    """Steps of a call that ends at 12; the limit is 2."""
    message = (
        rf"^step {step}: .*\({bad[-1]} bad steps, max_bad_steps=2\).*batch\({step}\), .*step 8"
    )
    with pytest.raises(NonFiniteError, match=message):
        check_finite(setup, 12, np.asarray(bad))
    with np.load(setup.workdir / f"bad_batch_{step}.npz") as file:
        assert file["a.x"].tolist() == [step] * 3


def test_as_many_bad_steps_as_the_limit_are_allowed(setup: Any) -> None:
    check_finite(setup, 12, np.asarray([0, 1, 2, 2]))
    assert not list(setup.workdir.glob("*.npz"))


def test_a_failed_lane_is_marked_and_all_failed_lanes_end_the_run(setup: Any) -> None:
    setup.lanes = 2
    check_finite(setup, 4, np.asarray([[0, 1], [0, 2], [0, 2], [0, 2]]))
    assert not list(setup.workdir.rglob("FAILED"))
    check_finite(setup, 8, np.asarray([[0, 2], [0, 3], [0, 4], [1, 5]]))
    (marker,) = setup.workdir.rglob("FAILED")
    assert marker == setup.lane_dirs[1] / "FAILED" and "by step 8" in marker.read_text()
    # The run ends at the step at which the last lane fails.
    with pytest.raises(NonFiniteError, match="^step 10: "):
        check_finite(setup, 12, np.asarray([[2, 5], [2, 5], [3, 5], [3, 5]]))
    assert "by step 8" in marker.read_text()
