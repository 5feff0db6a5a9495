"""Speeds are measured with the step of the training loop, on rows that the mesh splits."""

from typing import Any

import jax
import numpy as np
import pytest

from flaxae.config import Config, DataConfig
from flaxae.models.byte_lm.rates import Timed
from flaxae.models.byte_lm.streams import ByteDataConfig
from tests.models.byte_lm.toy import ToyConfig

ROWS, UPDATE = 8, 4


@pytest.mark.parametrize("calls", [1, 2])
def test_each_device_reads_its_rows(calls: int):
    data: DataConfig = ByteDataConfig(batch_size=ROWS)
    config = Config(task=ToyConfig(update=UPDATE), data=data, steps_per_call=calls)
    timed = Timed(config)
    placed: Any = timed._batch["x"]
    assert jax.device_count() == len(placed.sharding.device_set) == 8
    shape = (1, UPDATE) if calls == 1 else (calls, 1, UPDATE)
    assert placed.sharding.shard_shape(placed.shape) == shape
    assert timed.bytes_per_call == calls * ROWS * UPDATE
    before = jax.device_get(timed._state["params"])
    timed()
    after = jax.device_get(timed._state["params"])
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), before, after)))
