"""Tests of AutomatonNN: its state, one row, cuts, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.models.byte_lm.automaton import AutomatonConfig, row_use
from flaxae.models.byte_lm.network import nats
from flaxae.task import Context
from tests.models.byte_lm.helpers import build, hparams_of, read, reader_of, size, text

LARGE = {"layers": 2, "hidden": 6}


def tiny(**options) -> AutomatonConfig:
    return AutomatonConfig(**{"rows": 4, "width": 3, "inputs": 5, "bptt": 2} | options)


def loss_function(options: AutomatonConfig, streams: int = 2):
    """Return (parameters, loss): a jitted function of the parameters, bytes and traced fields."""
    network = build(options, streams)
    graphdef, params, state = nnx.split(network, nnx.Param, ...)

    @jax.jit
    def loss(params, x, hparams):
        model = nnx.merge(graphdef, params, jax.tree.map(lambda a: a + 0, state))
        out = model(x[:, :-1], Context(jax.random.key(0), jnp.int32(0), hparams=hparams))
        return nats(out.logits, x[:, 1:]).mean()

    return params, loss


def test_a_stream_in_parts_is_one_pass():
    reader, x = reader_of(tiny(**LARGE)), text()
    whole = read(reader, x)
    for chunk in (1, 16):
        np.testing.assert_allclose(read(reader, x, chunk), whole, atol=1e-5)


def test_one_row_reads_the_last_byte_only():
    x = text()
    changed = x.copy()
    changed[:, :127] ^= 255
    one, many = reader_of(tiny(rows=1, **LARGE)), reader_of(tiny(**LARGE))
    np.testing.assert_array_equal(read(one, x)[:, 127], read(one, changed)[:, 127])
    assert (read(many, x)[:, 127] != read(many, changed)[:, 127]).all()


def test_one_row_trains_as_a_linear_map_of_the_byte_and_the_row():
    options = tiny(rows=1)
    network, hparams = build(options), hparams_of(options)
    params, loss = loss_function(options)

    def reference(weights, x):
        table, row, kernel, bias = weights
        vectors = table[x[:, :-1]]
        h = jnp.concatenate([vectors, jnp.broadcast_to(row, (*vectors.shape[:2], 3))], -1)
        return nats(h @ kernel + bias[None, None], x[:, 1:]).mean()

    def weights_of(net):
        found = net.embed.table, net.layers[0].table, net.head.kernel, net.head.bias
        return [x[...] for x in found]

    @jax.jit
    def train(params, weights, x):
        def descend(loss, values):
            value, grads = jax.value_and_grad(loss)(values)
            return jax.tree.map(lambda p, g: p - 0.3 * g, values, grads), value

        params, ours = descend(lambda p: loss(p, x, hparams), params)
        weights, theirs = descend(lambda w: reference(w, x), weights)
        return params, weights, ours, theirs

    # The network also has at least the bits of the text's own pairs of bytes.
    x = np.random.default_rng(0).integers(0, 3, (2, 65)).astype(np.int32)
    pairs = bigram_nats(x)
    weights, found = weights_of(network), []
    for _ in range(100):
        params, weights, ours, theirs = train(params, weights, x)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        found.append(float(ours))
    assert pairs - 1e-6 <= min(found) < pairs + 0.1
    nnx.update(network, params)
    for trained, expected in zip(weights_of(network), weights, strict=True):
        np.testing.assert_allclose(trained, expected, atol=1e-5)


def bigram_nats(x: np.ndarray) -> float:
    """Return the nats per byte of a text by the frequencies of its own pairs of bytes."""
    counts = np.zeros((256, 256))
    np.add.at(counts, (x[:, :-1].ravel(), x[:, 1:].ravel()), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return -(counts * np.log(np.where(share > 0, share, 1))).sum() / counts.sum()


def test_states_are_mixtures_of_the_rows_or_one_row():
    network, x = build(tiny(rows=4)), jax.random.normal(jax.random.key(1), (2, 16, 5))
    layer = network.layers[0]
    graphdef, state = nnx.split(layer)

    @jax.jit
    def states_of(state, hparams):
        layer = nnx.merge(graphdef, jax.tree.map(lambda a: a + 0, state))
        ctx = Context(jax.random.key(0), jnp.int32(0), hparams=hparams)
        return *layer(x, jnp.zeros(16, bool), ctx), layer.state[...]

    for hard in (False, True):
        states, p, last = states_of(state, hparams_of(tiny(straight_through=hard)))
        chosen = np.eye(4)[np.asarray(p).argmax(-1)] if hard else np.asarray(p)
        np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
        np.testing.assert_allclose(states, chosen @ np.asarray(layer.table[...]), atol=1e-6)
        np.testing.assert_array_equal(last, states[:, -1])
    even = states_of(state, hparams_of(tiny(temperature=1e6)))[1]
    np.testing.assert_allclose(even, 1 / 4, rtol=1e-3)


@jax.jit
def one_byte(params, s, x, y):
    """Return the state and the loss after one byte."""
    layer = params["layers"][0]
    v = params["embed"]["table"][...][x]
    read, recur = (layer[name]["kernel"][...] for name in ("read", "recur"))
    p = jax.nn.softmax(v @ read + layer["read"]["bias"][...][None] + s @ recur)
    s = p @ layer["table"][...]
    head = params["head"]
    logits = jnp.concatenate([v, s], -1) @ head["kernel"][...] + head["bias"][...][None]
    return s, nats(logits, y).mean()


def explicit(params, x, k: int):
    """Return the loss by a loop over bytes with an explicit stop_gradient."""
    s, total = jnp.zeros((2, 3)), jnp.zeros(())
    for t in range(x.shape[1] - 1):
        s = jax.lax.stop_gradient(s) if t % k == 0 else s
        s, loss = one_byte(params, s, x[:, t], x[:, t + 1])
        total = total + loss
    return total / (x.shape[1] - 1)


def test_gradients_end_where_the_mask_cuts():
    options, x = tiny(), text(length=6)
    params, loss = loss_function(options)
    gradient = jax.jit(jax.grad(loss))
    found = {}
    for k in (1, 2, 9):
        found[k] = gradient(params, x, hparams_of(tiny(bptt=k)))
        expected = jax.grad(explicit)(params, x, k)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found[k], expected)
    kernels = [g["layers"][0]["recur"]["kernel"][...] for g in found.values()]
    assert all((a != b).any() for a, b in zip(kernels, kernels[1:], strict=False))


def test_gradients_must_stop_within_an_update():
    with pytest.raises(ConfigError, match=r"task.bptt=17 is above task.update=16"):
        tiny(bptt=17).validate()


def test_metrics_of_row_use():
    one, even = jnp.zeros((5, 2, 8)).at[..., 3].set(1), jnp.full((5, 2, 8), 1 / 8)
    two = jnp.concatenate([one, jnp.roll(one, 1, -1)], 1)
    for p, largest, used in ((one, 1, 1), (even, 1 / 8, 8), (two, 1, 2)):
        found = row_use(p)
        assert found["max_p"].shape == found["rows_used"].shape == p.shape[:2]
        np.testing.assert_allclose(found["max_p"], largest, rtol=1e-5)
        np.testing.assert_allclose(found["rows_used"], used, rtol=1e-5)


def test_sizes():
    rows, width, inputs = 4, 3, 5
    head = 256 * inputs + (inputs + width + 1) * 256
    assert size(tiny()) == head + (inputs + width + 1) * rows + rows * width
    matmuls = (inputs + width) * (256 + rows) + rows * width
    assert nnx.eval_shape(lambda: build(tiny())).weights_per_byte() == matmuls
    two = tiny(layers=2, hidden=6)
    layer = [(n + 3 + 1) * 6 + 7 * 4 + 12 for n in (5, 8)]
    assert size(two) == head + 3 * 256 + sum(layer)
