"""The Stimulus network: gradients against explicit references, and streams read in parts."""

import dataclasses
import functools
import runpy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.config import copy_config
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.network import Frozen, nats
from flaxae.models.byte_lm.stimulus import Learning, StimulusConfig
from flaxae.models.byte_lm.stimulus_layer import Decay
from flaxae.task import Context, StreamCarry
from tests.models.byte_lm.helpers import build, hparams_of, read, reader_of, text

ROWS, LENGTH = 3, 12
BASE = StimulusConfig(states=6, width=4, update=LENGTH, decay=0.8)
FROZEN: dict[str, Any] = {"learning": Learning.FROZEN}
TRUNCATED = dataclasses.replace(BASE, learning=Learning.TRUNCATED)
BYTES_READ = np.random.default_rng(0).integers(0, 9, (ROWS, LENGTH + 1))


def context(config: StimulusConfig, bptt: Any = None) -> Context:
    hparams = hparams_of(config)
    hparams |= {} if bptt is None else {"bptt": jnp.int32(bptt)}
    return Context(jax.random.key(0), jnp.int32(0), hparams=hparams, train=True)


@functools.cache
def gradients_of(config_values: tuple, length: int) -> Any:
    """Compile the gradient of a call of `length` bytes, and the new state."""
    config = StimulusConfig(**dict(config_values))
    graphdef, _ = nnx.split(build(config, ROWS))

    def loss(params: Any, rest: Any, x: Any, y: Any, bptt: Any) -> Any:
        model = nnx.merge(graphdef, params, rest, copy=True)
        total = nats(model(x, context(config, bptt)).logits, y).sum()
        return total, nnx.split(model, nnx.Param, ...)[2]

    return jax.jit(jax.grad(loss, has_aux=True))


def gradients(config: StimulusConfig, parts: int = 1, bptt: int = 1) -> dict[str, np.ndarray]:
    """Return the summed gradients of one sequence that is read in `parts` calls."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    length = LENGTH // parts
    run = gradients_of(tuple(values.items()), length)
    _, params, rest = nnx.split(build(config, ROWS), nnx.Param, ...)
    total: Any = None
    for start in range(0, LENGTH, length):
        x = jnp.asarray(BYTES_READ[:, start : start + length])
        y = jnp.asarray(BYTES_READ[:, start + 1 : start + length + 1])
        found, rest = run(params, rest, x, y, bptt)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    return flat(total)


def flat(state: Any) -> dict[str, np.ndarray]:
    return {".".join(map(str, k)): np.asarray(v[...]) for k, v in nnx.to_flat_state(state)}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], only: str = "") -> None:
    assert a.keys() == b.keys()
    for name in a:
        if only in name:
            assert np.abs(b[name]).max() > 1e-4, name
            np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=2e-5, err_msg=name)


EXACT = {
    "counts": {},
    "stored state": {"stored_state": True},
    "learned decay": {"decay_kind": Decay.SHARED},
    "learned decays of units": {"decay_kind": Decay.UNIT},
    "first version": {"first_version": True, "decay_kind": Decay.UNIT},
    "first version, one decay": {"first_version": True, "decay_kind": Decay.SHARED},
    "largest difference": {"max_norm": True, "stored_state": True},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("counts", "first version") else pytest.mark.slow)
        for name in EXACT
    ],
)
def test_traces_give_the_gradient_of_full_backpropagation(name: str) -> None:
    exact = dataclasses.replace(BASE, **EXACT[name])
    full = dataclasses.replace(exact, learning=Learning.TRUNCATED, stored_state=False)
    assert_same(gradients(exact, parts=4), gradients(full, bptt=LENGTH))


@functools.cache
def reference() -> Any:
    """Compile the gradient by a loop over bytes with an explicit stop_gradient."""
    graphdef, _ = nnx.split(build(TRUNCATED, ROWS))

    def loss(params: Any, rest: Any, k: Any) -> Any:
        model: Any = nnx.merge(graphdef, params, rest, copy=True)
        table, total = model.responses(), 0.0
        state = jnp.zeros((ROWS, TRUNCATED.states))
        for t in range(LENGTH):
            state = jnp.where(t % k == 0, jax.lax.stop_gradient(state), state)
            state = TRUNCATED.decay * state + table[BYTES_READ[:, t]]
            logits = model.head(state, context(TRUNCATED))
            total += nats(logits[:, None], jnp.asarray(BYTES_READ[:, t + 1 : t + 2])).sum()
        return total

    return jax.jit(jax.grad(loss))


@pytest.mark.parametrize("k", [1, 2, 4, LENGTH])
def test_truncated_gradients_equal_a_loop_with_stop_gradient(k: int) -> None:
    _, params, rest = nnx.split(build(TRUNCATED, ROWS), nnx.Param, ...)
    assert_same(gradients(TRUNCATED, bptt=k), flat(reference()(params, rest, k)))


@pytest.fixture(scope="module")
def two_layers() -> StimulusConfig:
    return dataclasses.replace(BASE, layers=2, decay_kind=Decay.UNIT)


@pytest.mark.slow
def test_gradients_of_two_layers_do_not_depend_on_the_length_of_calls(two_layers: Any) -> None:
    assert_same(gradients(two_layers, parts=4), gradients(two_layers))


@pytest.mark.slow
def test_second_layer_has_exact_gradients_of_its_own_weights(two_layers: Any) -> None:
    full = dataclasses.replace(two_layers, learning=Learning.TRUNCATED)
    exact, expected = gradients(two_layers, parts=4), gradients(full, bptt=LENGTH)
    for name in ("centres.1", "recurrences.1", "head"):
        assert_same(exact, expected, only=name)
    below = "centres.0.centres"
    assert not np.allclose(exact[below], expected[below], rtol=0.01)


@pytest.mark.parametrize("learning", [Learning.TRACE, Learning.FROZEN])
def test_reading_in_parts_equals_one_pass(learning: Learning) -> None:
    reader, x = reader_of(dataclasses.replace(BASE, learning=learning)), text(streams=1)
    whole = read(reader, x)
    for length in (1, 16):
        np.testing.assert_allclose(read(reader, x, length), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2])
def test_frozen_units_are_not_parameters(layers: int) -> None:
    model = build(dataclasses.replace(BASE, learning=Learning.FROZEN, layers=layers))
    assert {name[0] for name, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))} == {"head"}
    assert len(jax.tree.leaves(nnx.state(model, Frozen))) == 1 + 3 * layers


def test_responses_to_largest_differences_are_not_saturated_at_the_start() -> None:
    config = dataclasses.replace(
        BASE, states=64, width=16, layers=2, max_norm=True, learning=Learning.TRUNCATED
    )
    model: Any = build(config, ROWS)
    assert 0.05 < model.responses().mean() < 0.5
    first, second = model.centres
    v = second.response(second.weights(), jax.random.uniform(jax.random.key(0), (ROWS, 64)))
    assert 0.2 < v.mean() < 0.8


def test_weights_per_byte_include_the_distances_of_higher_layers() -> None:
    two = dataclasses.replace(BASE, layers=2)
    head, higher = 256 * BASE.states, BASE.states**2
    assert build(BASE).weights_per_byte() == head
    assert build(two).weights_per_byte() == head + higher
    assert build(dataclasses.replace(two, **FROZEN)).weights_per_byte() == head + higher // 3
    assert build(dataclasses.replace(two, max_norm=True)).weights_per_byte() == head


def test_streams_start_at_zero() -> None:
    for changes in ({}, {"decay_kind": Decay.UNIT}, {"layers": 2}):
        model = build(dataclasses.replace(BASE, **changes), ROWS)
        for leaf in jax.tree.leaves(nnx.state(model, StreamCarry)):
            assert leaf.shape[0] == ROWS and not leaf.any()
    counts: Any = build(BASE, ROWS)
    assert {path[0] for path in dict(nnx.to_flat_state(nnx.state(counts, StreamCarry)))} == {
        "counts"
    }


def test_invalid_sizes_are_reported() -> None:
    with pytest.raises(ConfigError, match=r"task\.bptt=13 is above task\.update=12"):
        dataclasses.replace(BASE, bptt=13).validate()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"one_hot": True}, "task.one_hot=true needs"),
        ({"one_hot": True, "states": 256, **FROZEN, "layers": 2}, "task.layers=1"),
        ({"one_hot": True, "states": 256, **FROZEN, "max_norm": True}, "task.max_norm=false"),
        ({**FROZEN, "decay_kind": Decay.UNIT}, "task.decay_kind=fixed"),
        ({**FROZEN, "stored_state": True}, "task.stored_state=true needs"),
        ({"first_version": True, "stored_state": True}, "task.stored_state=true needs"),
        ({"decay_kind": Decay.UNIT, "stored_state": True}, "task.stored_state=true needs"),
    ],
)
def test_settings_without_an_effect_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        dataclasses.replace(BASE, **changes).validate()


def test_configs_of_all_variants_are_valid() -> None:
    space = runpy.run_path("configs/byte_lm/stimulus.py")
    for preset in ("quick", "full"):
        base = space["get_config"](preset)
        for variant in space["variants"](preset).values():
            for setting in variant.settings():
                copy_config(base, setting).validate()
