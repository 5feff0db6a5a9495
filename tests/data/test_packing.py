"""Tests of packed rows: examples, segments and targets."""

import numpy as np
import pytest

from flaxae.data.packing import Example, density, pack
from flaxae.errors import ConfigError
from flaxae.nn.bias import SHARED


def drawn(seed, count=40):
    rng = np.random.default_rng(seed)
    return [
        Example(
            rng.integers(1, 99, rng.integers(1, 9)).tolist(),
            rng.integers(1, 99, rng.integers(1, 7)).tolist(),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("alone", [False, True])
def test_every_example_is_packed_once(alone):
    examples = drawn(0, 200)
    packed = pack(examples, 16, alone=alone)
    a, found = packed.arrays, []
    for ids, segments, positions in zip(a["ids"], a["segment_ids"], a["positions"], strict=True):
        for s in range(1, segments.max() + 1):
            where = np.flatnonzero(segments == s)
            assert (np.diff(where) == 1).all()
            assert positions[where].tolist() == list(range(len(where)))
            found.append(tuple(ids[where]))
        assert not ids[segments == 0].any()
    assert sorted(found) == sorted((*e.prompt, *e.completion) for e in examples)
    assert packed.kept == list(range(len(examples)))
    if not alone:
        assert density(packed) > 0.85 > density(pack(examples, 16, alone=True))


def test_each_target_is_predicted_one_position_before():
    examples = drawn(1)
    a = pack(examples, 16).arrays
    predicted = []
    for row in range(len(a["ids"])):
        real = a["target_weight"][row] > 0
        where, targets = a["where"][row][real], a["targets"][row][real]
        assert (a["ids"][row][where + 1] == targets).all()
        assert (a["segment_ids"][row][where + 1] == a["segment_ids"][row][where]).all()
        predicted += targets.tolist()
    assert sorted(predicted) == sorted(t for e in examples for t in e.completion)


def test_a_shared_prefix_is_stored_once_per_row():
    examples = [Example([7, 8, 9, *e.prompt], e.completion) for e in drawn(2, 200)]
    packed = pack(examples, 19, shared=3)
    a, found, predicted = packed.arrays, [], []
    for row, segments in enumerate(a["segment_ids"]):
        assert segments[:3].tolist() == [SHARED] * 3 and (segments[3:] != SHARED).all()
        assert a["ids"][row, :3].tolist() == [7, 8, 9]
        assert a["positions"][row, :3].tolist() == [0, 1, 2]
        for s in range(1, segments.max() + 1):
            where = np.flatnonzero(segments == s)
            assert a["positions"][row, where].tolist() == list(range(3, 3 + len(where)))
            found.append((7, 8, 9, *a["ids"][row, where]))
        real = a["target_weight"][row] > 0
        places, targets = a["where"][row][real], a["targets"][row][real]
        assert (a["ids"][row][places + 1] == targets).all()
        assert (segments[places] == segments[places + 1]).all() and (segments[places] > 0).all()
        predicted += targets.tolist()
    assert sorted(found) == sorted((*e.prompt, *e.completion) for e in examples)
    assert sorted(predicted) == sorted(t for e in examples for t in e.completion)
    assert density(packed) > 0.85 and packed.shared == 3
    assert len(a["ids"]) == len(pack(drawn(2, 200), 16).arrays["ids"])
    with pytest.raises(ConfigError, match="the same 4 ids"):
        pack(examples, 19, shared=4)


def test_long_examples_are_counted_and_no_examples_are_an_error():
    examples = [Example([1] * 9, [2] * 9), Example([1], [2])]
    packed = pack(examples, 10)
    assert packed.skipped == 1 and packed.kept == [1]
    with pytest.raises(ConfigError, match="data.max_length=10"):
        pack(examples[:1], 10)
    with pytest.raises(ConfigError, match="there are no examples"):
        pack([], 10)
    with pytest.raises(ConfigError, match="3 target tokens"):
        pack([Example([1], [2, 3, 4])], 10, targets=2)
