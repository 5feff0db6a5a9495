"""Single steps: what a step keeps that is not finite, what evaluations draw, where batches are."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flaxae.machine import sharding
from flaxae.task import Context
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


def test_the_metrics_of_a_step_are_its_own(steps: Steps) -> None:
    states = [steps.start, *steps.take(7, poison=1.0)]
    for t, metrics in enumerate(steps.metrics):
        before, after = (flat(states[i]["params"]) for i in (t, t + 1))
        assert metrics["param_norm"] == pytest.approx(norm(after), rel=1e-5)
        change = norm({k: after[k] - before[k] for k in after})
        assert metrics["update_norm"] == pytest.approx(change, rel=1e-3, abs=1e-7)
        assert metrics["lr"] == pytest.approx(0.01 * min(t / 4, 1))  # warmup: 0 at step 0
        assert (change > 0) == (0 < t < 5) == (0 < metrics["update_norm"])
        assert (metrics["bad"], metrics["finite"]) == (max(0, t - 4), t < 5)
        assert metrics["half"] == 0.5  # a metric is divided by its own weight
    # The mean gradient is clipped to a norm of 1; Adam's first moment is a tenth of it.
    moment = norm(flat(states[1]["opt"]["mu"]))
    assert 10 * moment == pytest.approx(min(1.0, steps.metrics[0]["grad_norm"]), rel=1e-4)
    good = steps.metrics[2]
    penalty = 0.1 * 2 / 10 * good["drift"]  # the loss reads the step
    assert good["loss"] == pytest.approx(good["error"] + penalty, rel=1e-5)
    assert penalty > 1e-6 * good["error"]


def norm(tree: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(x.astype(np.float64)).sum() for x in tree.values())))


def test_micro_batches_have_their_own_keys_and_rows(hooked_steps: Steps) -> None:
    """One step by hand: gradients, streams and queue of two micro-batches."""
    steps, setup = hooked_steps, hooked_steps.setup
    (state,), (metrics,) = steps.take(1, penalty=0.0), steps.metrics
    key = jax.random.fold_in(jax.random.key(setup.config.seed), 0)
    batch, rows = setup.feed.batch(0), (slice(0, None, 2), slice(1, None, 2))

    def total(params: Any) -> Any:
        """Sum over micro-batches; also the carries that they leave."""
        carry = jax.tree.map(jax.numpy.asarray, steps.start["carry"])
        before, out, streams = carry["stream"], jax.numpy.zeros(()), []
        for i, part in enumerate(rows):
            stream = jax.tree.map(lambda x, part=part: x[part], before)
            model = setup.layout.merge(
                params, {"once": carry["once"], "stream": stream}, setup.frozen.values
            )
            ctx = Context(
                jax.random.fold_in(key, i),
                jax.numpy.int32(0),
                hparams=steps.hparams(penalty=0.0),
                train=True,
                sharding_rules=setup.task.sharding_rules,
            )
            micro = jax.tree.map(lambda x, part=part: jax.numpy.asarray(x[part]), batch)
            out = out + setup.task.loss(model, micro, ctx).total
            carry = setup.layout.carry_of(model)
            streams.append(carry["stream"]["state"])
        return out, (carry["once"]["queue"], streams)

    grads, (queue, streams) = jax.jit(jax.grad(total, has_aux=True))(steps.start["params"])
    grads = {k: x / batch["weight"].sum() for k, x in flat(grads).items()}
    assert metrics["grad_norm"] == pytest.approx(3 * norm(grads), rel=1e-5)  # the task's
    # Clipped to 0.01; the task has added 1 to the momentum.
    momentum = {k: 0.01 * x / norm(grads) + 1 for k, x in grads.items()}
    assert_same(list(flat(state["opt"]).values()), list(momentum.values()), atol=1e-6)
    assert metrics["update_norm"] == pytest.approx(0.5 * 0.01, rel=1e-4)
    np.testing.assert_allclose(state["carry"]["once"]["queue"], queue, atol=1e-6)
    for part, stream in zip(rows, streams, strict=True):
        np.testing.assert_allclose(state["carry"]["stream"]["state"][part], stream, atol=1e-6)


def test_a_bad_step_keeps_the_optimizers_state_that_a_task_changes(hooked_steps: Steps) -> None:
    states = hooked_steps.take(6, poison=-1.0)
    assert_same(flat(states[5]["opt"]), flat(states[4]["opt"]))
    assert np.any(states[4]["opt"]["trace"]["head"] != states[3]["opt"]["trace"]["head"])


def test_an_evaluation_reads_the_step_and_drops_nothing(steps: Steps) -> None:
    """Twice the same state at another step: only the ramp of the penalty differs."""
    one, two = (steps.evaluate(steps.placed(step=np.int32(step))) for step in (0, 10))
    assert one["dev/loss"] == pytest.approx(one["dev/error"], rel=1e-6)
    assert two["dev/loss"] == pytest.approx(two["dev/error"] + 0.1 * two["dev/drift"], rel=1e-5)
    assert one["dev/error"] == two["dev/error"] and two["dev/drift"] > 0


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
    stream = steps.setup.shardings["carry"]["stream"]["state"]
    assert stream == sharding.batch_sharding(mesh)
    assert sharding.batch_sharding(mesh, 2).spec == P(None, None, ("replica", "fsdp"))
