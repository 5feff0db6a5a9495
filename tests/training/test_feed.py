"""Batches of several steps and lanes, and the traced values of lanes."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from flaxae.config import copy_config
from flaxae.errors import ConfigError
from flaxae.training.feed import Feed
from flaxae.training.hparams import make_hparams
from tests.tiny.family import TinyTask, tiny_config


def source(lane: int, rows: int = 2, num_batches: int | None = None) -> Any:
    """Make a source whose batch contains its lane and the step."""
    return SimpleNamespace(
        num_batches=num_batches,
        fingerprint=f"lane{lane}",
        batch_spec={"x": jax.ShapeDtypeStruct((rows, 2), np.int32)},
        batch=lambda step: {"x": np.full((rows, 2), 100 * lane + step, np.int32)},
    )


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_call_gets_the_batches_of_its_steps_and_lanes(lanes: int, steps: int) -> None:
    feed = Feed([source(lane) for lane in range(lanes)], steps)
    x = feed.batch(5)["x"]
    want = 100 * np.arange(lanes)[None] + 5 * steps + np.arange(steps)[:, None]  # (steps, lanes)
    assert feed.leading == x.ndim - 2 == (steps > 1) + (lanes > 1)
    np.testing.assert_array_equal(x.reshape(steps, lanes, 2, 2)[:, :, 1, 1], want)
    assert feed.fingerprint == "+".join(f"lane{i}" for i in range(lanes))
    assert feed.batch_spec["x"].shape == (2, 2)


@pytest.mark.parametrize("other", [{"rows": 3}, {"num_batches": 7}])
def test_lanes_whose_batches_differ_in_shape_or_number_are_refused(other: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="same shape and number.*--no-lanes"):
        Feed([source(0), source(1, **other)])


def test_traced_values_keep_their_types_and_lanes() -> None:
    config = tiny_config(seed=2**24 + 1, data__seed=2**24 + 3, task__heals=2**24 + 5)
    task = TinyTask(config)
    one = make_hparams(task, [config], False)
    assert {k: x.item() for k, x in one.items()} == {
        "lr": pytest.approx(0.01),
        "seed": 2**24 + 1,
        "data_seed": 2**24 + 3,
        "penalty": pytest.approx(0.1),
        "poison": 0.0,
        "heals": 2**24 + 5,
    }
    overrides = {"optim.weight_decay": 0.5, "seed": 3, "data.seed": 4, "task.penalty": 0.25}
    both = make_hparams(task, [config, copy_config(config, overrides)], True)
    assert both["weight_decay"].tolist() == [0.0, 0.5]
    assert both["seed"].tolist() == [2**24 + 1, 3]
    assert both["data_seed"].tolist() == [2**24 + 3, 4]
    assert both["penalty"][1] == 0.25 and both["lr"].shape == (2,)
