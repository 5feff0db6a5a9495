"""Schedules between their ends, and each optimizer's own constants, by hand."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.config import OptimConfig, Optimizer, Schedule
from flaxae.training import optim

G = np.asarray([[3.0, -4.0], [0.5, 1.0]], np.float32)


def test_schedules_between_their_ends() -> None:
    def rate(kind: str, step: int, **fields: Any) -> float:
        fields = {"warmup": 10, "final_lr": 0.1, "wsd_decay": 0.2} | fields
        return float(
            optim.learning_rate(OptimConfig(schedule=Schedule(kind), **fields), 2.0, step, 110)
        )

    for kind, step, want in (
        ("linear", 35, 2 * (1 - 0.9 * 0.25)),
        ("linear", 60, 1.1),
        ("cosine", 35, 2 * (0.1 + 0.45 * (1 + np.cos(np.pi / 4)))),
        ("cosine", 60, 1.1),
        ("wsd", 88, 2.0),  # the decay takes 22 of 110 steps, warmup included
        ("wsd", 99, 1.1),
        ("constant", 3, 0.6),
        ("rsqrt", 40, 1.0),
    ):
        assert rate(kind, step) == pytest.approx(want, rel=1e-5), (kind, step)
    assert rate("rsqrt", 4, warmup=0) == pytest.approx(1.0)
    assert rate("linear", 55, warmup=0) == pytest.approx(1.1)


def updates(n: int, good: bool, **fields: Any) -> list[dict[str, np.ndarray]]:
    """Return n updates of a matrix and an embedding by G, 2 G, 3 G ..., divided by -lr."""
    options: dict[str, Any] = {"lr": 0.5, "clip_norm": 0.0, "schedule": Schedule.CONSTANT}
    tx = optim.make_tx(OptimConfig(**options | fields), {}, 0, 10)
    params = {"kernel": jnp.zeros((2, 2)), "embed": jnp.zeros((2, 2))}
    more = {"good": jnp.bool_(True)} if good else {}
    update, state, out = jax.jit(partial(tx.update, **more)), tx.init(params), []
    for i in range(n):
        found, state = update(
            jax.tree.map(lambda _, i=i: (i + 1) * jnp.asarray(G), params), state, params
        )
        out.append({k: np.asarray(x) / -0.5 for k, x in found.items()})
    return out


@pytest.mark.parametrize("good", [False, True])
def test_adam_by_hand(good: bool) -> None:
    """Moments with bias correction; eps is added to the root."""
    found = updates(2, good, b1=0.8, b2=0.6, eps=0.7)
    m = v = 0 * G
    for t, one in enumerate(found, 1):
        m, v = 0.8 * m + 0.2 * t * G, 0.6 * v + 0.4 * np.square(t * G)
        want = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.6**t)) + 0.7)
        np.testing.assert_allclose(one["kernel"], want, rtol=1e-5)
        np.testing.assert_array_equal(one["kernel"], one["embed"])


def test_momentum_and_lion_by_hand() -> None:
    first, second = updates(2, True, name=Optimizer.SGD, momentum=0.25)
    np.testing.assert_allclose(first["kernel"], G, rtol=1e-6)
    np.testing.assert_allclose(second["kernel"], 2 * G + 0.25 * G, rtol=1e-6)
    # Lion: the sign of b1 m + (1 - b1) g, with m of rate b2.
    gradients, m, b1, b2 = (1.0, -2.0), 0.0, 0.5, 0.1
    tx = optim.make_tx(
        OptimConfig(
            name=Optimizer.LION, b1=b1, b2=b2, clip_norm=0.0, lr=1.0, schedule=Schedule.CONSTANT
        ),
        {},
        0,
        10,
    )
    found: Any
    state, params = tx.init({"w": jnp.zeros(2)}), {"w": jnp.zeros(2)}
    for g in gradients:
        found, state = tx.update({"w": jnp.full(2, g)}, state, params)
        np.testing.assert_array_equal(found["w"], -np.sign(b1 * m + (1 - b1) * g))
        m = b2 * m + (1 - b2) * g
    np.testing.assert_allclose(optim.pack(state)["mu"]["w"], m, rtol=1e-6)


def test_muon_uses_momentum_for_matrices_and_adam_for_tables() -> None:
    plain, betas, momentum = (
        updates(3, True, name=Optimizer.MUON, **fields)[-1]
        for fields in ({}, {"b1": 0.1, "b2": 0.3}, {"momentum": 0.1})
    )
    np.testing.assert_array_equal(plain["kernel"], betas["kernel"])
    np.testing.assert_array_equal(plain["embed"], momentum["embed"])
    assert np.any(plain["embed"] != betas["embed"])
    assert np.sqrt(np.square(plain["kernel"]).mean()) == pytest.approx(0.2, rel=0.3)


def test_gradients_below_the_largest_norm_are_not_scaled() -> None:
    norm = float(np.sqrt(2 * np.square(G).sum()))  # of both parameters
    for clip in (2 * norm, norm / 2):
        (found,) = updates(1, True, name=Optimizer.SGD, momentum=0.0, clip_norm=clip)
        np.testing.assert_allclose(found["kernel"], min(1, clip / norm) * G, rtol=1e-5)


def test_muons_size_does_not_depend_on_the_number_of_stacked_layers() -> None:
    options: dict[str, Any] = {"lr": 1.0, "clip_norm": 0.0, "schedule": Schedule.CONSTANT}
    tx = optim.make_tx(OptimConfig(name=Optimizer.MUON, **options), {}, 0, 10)
    params = {"kernel": jnp.zeros((32, 2, 2))}
    grads = {"kernel": jnp.broadcast_to(jnp.asarray(G), (32, 2, 2))}
    found: Any
    found, _ = tx.update(grads, tx.init(params), params)
    assert np.sqrt(np.square(found["kernel"]).mean()) == pytest.approx(0.2, rel=0.3)
