"""Single steps: what a step keeps that is not finite, what evaluations draw, where batches are."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flaxae.machine import sharding
from flaxae.training.lanes import slice_lane
from tests.helpers import assert_same, flat
from tests.training.conftest import Steps

KEPT = ("params", "ema", "carry", "opt")


def parts(state: Any) -> dict[str, np.ndarray]:
    """Return the arrays that a bad step must not change."""
    found = flat({name: state[name] for name in KEPT})
    assert len(found) == 3 + 3 + 2 + 7
    return found


@pytest.mark.parametrize("poison", [1.0, -1.0])
def test_a_step_that_is_not_finite_changes_only_the_counts(steps: Steps, poison: float) -> None:
    """With poison=-1 the loss is finite, and its gradient is not."""
    states = steps.take(8, poison=poison, heals=6)
    good, bad, *later = states[4:]
    assert all(np.isfinite(x).all() for x in flat(states[-1]).values())
    assert_same(parts(bad), parts(good))
    assert [(int(s["step"]), int(s["bad"])) for s in states[4:]] == [(5, 0), (6, 1), (7, 1), (8, 1)]
    # One bad step is allowed: all parts change again.
    for before, after in zip((bad, later[0]), later, strict=True):
        changed = parts(before), parts(after)
        assert all(np.any(changed[0][name] != changed[1][name]) for name in changed[0])


def test_lanes_after_too_many_bad_steps_stay_as_they_are_for_good(lane_steps: Steps) -> None:
    states = lane_steps.take(12)
    assert states[-1]["bad"].tolist() == [0, 1, 3]
    before, after = states[4], states[-1]
    for lane, changes in enumerate((True, True, False)):
        a, b = (parts(slice_lane(state, lane)) for state in (before, after))
        if not changes:
            assert_same(a, b)
            continue
        assert all(np.any(a[name] != b[name]) for name in a)
    # A lane that skipped one step continues from where it was.
    assert_same(parts(slice_lane(states[5], 1)), parts(slice_lane(before, 1)))


def test_an_evaluation_draws_from_the_seed_of_the_data_alone(steps: Steps) -> None:
    state = steps.placed()
    one = steps.evaluate(state)
    assert one == steps.evaluate(state, seed=5)
    other = steps.evaluate(state, data_seed=5)
    assert one["dev/noise"] != other["dev/noise"]
    assert one["dev/error"] == other["dev/error"]


def test_the_batches_of_an_evaluation_draw_different_numbers(steps: Steps) -> None:
    """The mean over three batches is not the number of any: keys fold in the batch's index."""
    key = jax.random.key(steps.setup.config.data.seed)
    drawn = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(3)]
    assert steps.evaluate(steps.placed())["dev/noise"] == pytest.approx(np.mean(drawn), rel=1e-5)


def test_another_seed_trains_otherwise_and_each_step_draws_anew(steps: Steps) -> None:
    frozen: Any = {"lr": 0.0, "penalty": 0.0}
    queues = [steps.take(2, seed=seed, **frozen)[-1]["carry"]["once"]["queue"] for seed in (0, 5)]
    assert np.all(queues[0][:2] != queues[1][:2])


class Stop(Exception):
    pass


def test_batches_are_split_over_the_devices(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device gets its own rows, in training and in the evaluation."""
    seen = []

    def record(*args: Any) -> Any:
        (batch,) = (x for x in args if isinstance(x, dict) and "weight" in x)
        seen.extend(jax.tree.leaves(batch))
        raise Stop

    mesh = steps.setup.mesh
    monkeypatch.setattr(steps.loop, "step_fn", record)
    monkeypatch.setattr(steps.loop.evaluator, "_step_fn", record)
    with pytest.raises(Stop):
        steps.loop.train()
    with pytest.raises(Stop):
        steps.evaluate(steps.placed())
    assert len(seen) == 6
    for x in seen:
        assert x.sharding.is_equivalent_to(jax.NamedSharding(mesh, P(("replica", "fsdp"))), x.ndim)
        assert [s.data.shape[0] for s in x.addressable_shards] == [8, 8]
    assert sharding.batch_sharding(mesh, 2).spec == P(None, None, ("replica", "fsdp"))
