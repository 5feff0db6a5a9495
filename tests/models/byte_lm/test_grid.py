"""Tests of the grid's networks: truncated gradients, corners, streams, lanes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.config import Config, copy_config, flags
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.grid import (
    ChunkedGridConfig,
    GridConfig,
    Readout,
    WindowGridConfig,
    count_parameters,
    is_blind,
    is_reservoir,
)
from flaxae.models.byte_lm.network import nats
from flaxae.models.byte_lm.recurrence import Dynamic, activate, combine, recur, recur_in_chunks
from flaxae.models.byte_lm.streaming import Reader
from flaxae.task import Context, StreamCarry

B, U = 2, 6  # streams, bytes of an update
KINDS = list(itertools.product(Dynamic, Readout))
# k, same step, output gate: data of one program
DATA = list(itertools.product((1, 2, 4, U, U + 3), (0, 1), (0, 1)))


def options_of(dynamic=Dynamic.GATED, readout=Readout.LINEAR, cls=GridConfig, **fields):
    return cls(layers=2, states=5, hidden=3, dynamic=dynamic, readout=readout, **fields)


@functools.cache
def split_network(dynamic, readout, cls=GridConfig, bptt=2):
    """Return the graph, the parameters and a random state of a network of two layers."""
    options = options_of(dynamic, readout, cls, bptt=bptt)
    graph, state, params = nnx.split(options.network(B, nnx.Rngs(1)), StreamCarry, ...)
    draw = functools.partial(jax.random.normal, jax.random.key(2))
    return graph, params, jax.tree.map(lambda x: 0.5 * draw(x.shape), state)


def text():
    return jax.random.randint(jax.random.key(3), (B, U + 1), 0, 256)


def loss(params, graph, state, x, hparams):
    """Return the nats of all next bytes."""
    state = jax.tree.map(lambda x: x, state)  # its variables belong to this trace
    network = nnx.merge(graph, state, params)
    ctx = Context(jax.random.key(0), jnp.int32(0), hparams=hparams)
    return nats(network(x[:, :-1], ctx).logits, x[:, 1:]).sum()


def step_by_step(params, graph, state, x, hparams, cut, counted):
    """Return the nats of the counted steps, read byte by byte with explicit stops of gradients.

    `cut` and `counted` are masks of the steps.
    """
    network = nnx.merge(graph, state, params)

    def step(states, now):
        byte, following, is_cut = now
        y, after = network.embed.table[...][byte], []
        for layer, before in zip(network.layers, states, strict=True):
            before = jnp.where(is_cut, jax.lax.stop_gradient(before), before)
            kernel = jnp.concatenate([layer.inputs.kernel[...], layer.recurrent.kernel[...]])
            total = jnp.concatenate([y, before], -1) @ kernel + layer.inputs.bias[...][None]
            after.append(combine(layer.dynamic, activate(layer.dynamic, total), before))
            r = jnp.where(hparams["same_step"] == 1, after[-1], before)
            maps = jnp.concatenate([r, y], -1) @ layer.outputs.kernel[...]
            maps = maps + layer.outputs.bias[...][None]
            width = maps.shape[-1] // (2 if layer.linear else 1)
            value = maps[:, :width] if layer.linear else r
            plain = value * jax.nn.sigmoid(value) if layer.linear else value
            gated = jax.nn.sigmoid(maps[:, -width:]) * value
            y = jnp.where(hparams["output_gate"] == 1, gated, plain)
        logits = y @ network.head.kernel[...] + network.head.bias[...][None]
        return after, nats(logits[:, None], following[:, None]).sum()

    start = [layer.state[...] for layer in network.layers]
    return (jax.lax.scan(step, start, (x.T[:-1], x.T[1:], cut))[1] * counted).sum()


@functools.cache
def reference(dynamic, readout):
    """Return the jitted gradient of the reference, a function of data and the two masks."""
    graph, params, state = split_network(dynamic, readout)
    return jax.jit(lambda *masks: jax.grad(step_by_step)(params, graph, state, text(), *masks))


@functools.cache
def gradient(dynamic, readout, cls=GridConfig, bptt=2):
    """Return the jitted gradient of a network, a function of what is data."""
    graph, params, state = split_network(dynamic, readout, cls, bptt)
    return jax.jit(lambda hparams: jax.grad(loss)(params, graph, state, text(), hparams))


def data(bptt, same_step, output_gate):
    values = {"bptt": bptt, "same_step": same_step, "output_gate": output_gate}
    return {name: jnp.int32(value) for name, value in values.items()}


def assert_close(found, expected):
    """Compare trees of gradients, each leaf up to 1e-6 of its largest entry."""
    for (path, a), b in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * scale, err_msg=str(path))


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_gradient_is_that_of_explicit_stops(kinds):
    for case in DATA:
        hparams = data(*case)
        cut = np.arange(U) % case[0] == 0
        expected = reference(*kinds)(hparams, cut, np.ones(U, np.float32))
        assert_close(gradient(*kinds)(hparams), expected)


@pytest.mark.parametrize("dynamic", Dynamic)
def test_dynamics_follow_their_equations(dynamic):
    """The reference above uses the layer's own `activate` and `combine`."""
    rng = np.random.default_rng(0)
    total, before = rng.normal(size=(B, dynamic.gates, 5)), rng.normal(size=(B, 5))
    # The first gate and the last one; both are unused without gates.
    h, first, last = np.tanh(total[:, 0]), total[:, min(1, dynamic.gates - 1)], total[:, -1]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    expected = {
        Dynamic.TANH: h,
        Dynamic.GATED: sigmoid(first) * h + (1 - sigmoid(first)) * before,
        Dynamic.DOUBLY_GATED: sigmoid(first + 1) * before + sigmoid(last) * h,
    }
    acts = activate(dynamic, jnp.asarray(total.reshape(B, -1)))
    found = combine(dynamic, acts, jnp.asarray(before))
    np.testing.assert_allclose(found, expected[dynamic], atol=1e-6)


@pytest.mark.parametrize("dynamic", Dynamic)
def test_chunks_have_the_gradient_of_the_mask(dynamic):
    n, steps = 4, 12
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = jax.random.normal(keys[0], (steps, B, dynamic.gates * n))
    weights = jax.random.normal(keys[1], (n, dynamic.gates * n))
    start, target = jax.random.normal(keys[2], (B, n)), jax.random.normal(keys[3], (steps, B, n))

    def masked(inputs, weights, start, k):
        return (recur(dynamic, inputs, weights, start, jnp.arange(steps) % k == 0) * target).sum()

    by_mask = jax.jit(jax.grad(masked, (0, 1, 2)))
    for k in (1, 3):

        def chunked(inputs, weights, start, k=k):
            return (recur_in_chunks(dynamic, k, inputs, weights, start) * target).sum()

        found = jax.jit(jax.grad(chunked, (0, 1, 2)))(inputs, weights, start)
        assert_close(found, by_mask(inputs, weights, start, k))


def test_windows_reach_the_same_number_of_steps_back_from_each_byte():
    kinds, k = (Dynamic.GATED, Readout.LINEAR), 3
    hparams = data(k, 1, 1)
    eye = np.eye(U)
    parts = [
        reference(*kinds)(hparams, eye[max(0, t - k + 1)] > 0, eye[t].astype(np.float32))
        for t in range(U)
    ]
    total = jax.tree.map(lambda *x: sum(x), *parts)
    assert_close(gradient(*kinds, WindowGridConfig, k)(hparams), total)


@pytest.mark.parametrize("gate", [0, 1])
def test_one_step_without_the_new_state_is_a_reservoir(gate):
    for same in (0, 1):
        assert is_reservoir(options_of(bptt=1, same_step=bool(same))) == (not same)
        grads = gradient(Dynamic.GATED, Readout.LINEAR)(data(1, same, gate))
        for layer in grads["layers"].values():
            maps = jax.tree.leaves((layer["inputs"], layer["recurrent"]))
            assert all(bool(jnp.any(x != 0)) == bool(same) for x in maps)
            assert all(bool(jnp.any(x != 0)) for x in jax.tree.leaves(layer["outputs"]))


def test_unused_gates_get_no_gradient():
    grads = gradient(Dynamic.GATED, Readout.LINEAR)(data(2, 1, 0))
    kernel = grads["layers"][0]["outputs"]["kernel"][...]  # (N + W, 2 W)
    assert not kernel[:, 3:].any() and kernel[:, :3].any()
    grads = gradient(Dynamic.GATED, Readout.STATE)(data(2, 1, 0))
    assert not any(x.any() for x in jax.tree.leaves(grads["layers"][0]["outputs"]))


def test_blind_cells_do_not_see_the_last_bytes():
    graph, params, state = split_network(Dynamic.GATED, Readout.STATE)
    x = text()

    @jax.jit
    def last(x, hparams):
        network = nnx.merge(graph, jax.tree.map(lambda x: x, state), params)
        ctx = Context(jax.random.key(0), jnp.int32(0), hparams=hparams)
        return network(x, ctx).logits[:, -1]

    for same, gate in itertools.product((0, 1), (0, 1)):
        options = options_of(readout=Readout.STATE, same_step=bool(same), output_gate=bool(gate))
        hparams = data(2, same, gate)
        recent = last(x.at[:, -2:].add(1), hparams)  # as many bytes as layers
        assert bool((recent == last(x, hparams)).all()) == is_blind(options)
        assert (last(x.at[:, -3].add(1), hparams) != last(x, hparams)).any()


def test_lanes_have_the_gradients_of_single_runs():
    kinds = Dynamic.DOUBLY_GATED, Readout.LINEAR
    rows = [data(1, 0, 1), data(2, 1, 0), data(4, 1, 1)]
    lanes = jax.tree.map(lambda *x: jnp.stack(x), *rows)
    found = jax.jit(jax.vmap(gradient(*kinds)))(lanes)
    for i, row in enumerate(rows):
        assert_close(jax.tree.map(lambda x, i=i: x[i], found), gradient(*kinds)(row))


def test_parts_of_a_text_give_the_logits_of_one_pass():
    network = options_of().network(1, nnx.Rngs(0))
    reader = Reader.of(network, data(2, 0, 1))
    x = jax.random.randint(jax.random.key(0), (1, 160), 0, 256)
    whole, end = reader.read(reader.zero(1), x)
    state, parts = reader.zero(1), []
    for part in jnp.split(x, [*range(1, 17), 32], axis=1):  # 16 of 1 byte, 16, 128
        logits, state = reader.read(state, part)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=2e-6)
    assert_close(state, end)


def test_max_state_is_that_of_all_bytes_so_far():
    options = options_of(Dynamic.DOUBLY_GATED, Readout.STATE)
    graph, state, params = nnx.split(options.network(B, nnx.Rngs(0)), StreamCarry, ...)

    @jax.jit
    def read(state, x):
        network = nnx.merge(graph, state, params)
        out = network(x, Context(jax.random.key(0), jnp.int32(0), hparams=data(2, 1, 0)))
        states = jnp.stack([layer.state[...] for layer in network.layers])
        return nnx.split(network, StreamCarry, ...)[1], out.metrics["max_state"], states

    found, seen = [], 0.0
    for part in jnp.split(jax.random.randint(jax.random.key(0), (B, 12), 0, 256), 12, axis=1):
        state, largest, states = read(state, part)
        seen = max(seen, float(jnp.abs(states).max()))
        assert largest.shape == part.shape and float(largest.max()) == pytest.approx(seen)
        found.append(float(jnp.abs(states).max()))
    assert found != sorted(found)  # the maximum of one part can be below that so far


@pytest.mark.parametrize("dynamic", Dynamic)
def test_parameters_are_counted_without_unused_gates(dynamic):
    for readout, layers in itertools.product(Readout, (1, 3)):
        options = options_of(dynamic, readout, output_gate=True)
        options.layers = layers
        trained = jax.eval_shape(
            lambda o=options: nnx.split(o.network(B, nnx.Rngs(0)), nnx.Param, ...)[1]
        )
        everything = sum(x.size for x in jax.tree.leaves(trained))
        assert count_parameters(options) == everything
        width = options.width
        gates = layers * (options.states + width + 1) * width
        options.output_gate = False
        assert count_parameters(options) == everything - gates


def test_largest_and_smallest_cell():
    small = GridConfig(readout=Readout.STATE, dynamic=Dynamic.TANH)
    assert count_parameters(small) == 18_720
    large = GridConfig(layers=3, states=256, hidden=256, dynamic=Dynamic.DOUBLY_GATED)
    large.output_gate = True
    assert count_parameters(large) == 2_101_248


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"task.bptt": 17}, "task.bptt=17 is above task.update=16"),
        ({"task.states": 0}, "task.states=0 must be positive"),
        ({"task.hidden": -1}, "task.hidden=-1 must be positive"),
    ],
)
def test_wrong_settings_are_one_error(overrides, message):
    with pytest.raises(ConfigError, match=message):
        flags.validate(copy_config(Config(task=GridConfig()), overrides))


def test_chunks_must_fill_an_update():
    with pytest.raises(ConfigError, match="task.update=16 is not a multiple of task.bptt=3"):
        flags.validate(Config(task=ChunkedGridConfig(bptt=3)))
