"""Tests of the prefetcher: order, end, errors and closing."""

import threading

import numpy as np
import pytest

from flaxae.data.loader import ArraySource
from flaxae.training.feed import Prefetcher


def _source(train=False):
    return ArraySource({"x": np.arange(10)}, 2, train=train)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_batches_do_not_depend_on_the_size(size):
    with Prefetcher(_source(), 1, lambda b: b["x"].tolist(), size) as batches:
        assert list(batches) == [(1, [2, 3]), (2, [4, 5]), (3, [6, 7]), (4, [8, 9])]
        assert list(batches) == []


@pytest.mark.parametrize("size", [0, 2])
def test_exceptions_are_raised_by_next(size):
    def put(batch):
        if batch["x"][0] == 4:
            raise ValueError("no room")
        return batch

    with Prefetcher(_source(), 0, put, size) as batches:
        assert [next(batches)[0], next(batches)[0]] == [0, 1]
        with pytest.raises(ValueError, match="no room"):
            next(batches)


def test_close_ends_the_thread():
    before = threading.active_count()
    batches = Prefetcher(_source(train=True), 5, lambda b: b, 2)
    assert next(batches)[0] == 5
    batches.close()
    batches.close()
    assert threading.active_count() == before
    assert next(batches, None) is None
