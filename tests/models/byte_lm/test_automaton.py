"""Tests of AutomatonNN: its state, one row, cuts, options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from flaxae.models.byte_lm.automaton import AutomatonConfig
from flaxae.models.byte_lm.network import nats
from flaxae.task import Context, StreamCarry
from tests.models.byte_lm.helpers import build, hparams_of, read, reader_of, size, text


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


@pytest.mark.parametrize("options", [{}, {"layers": 2, "hidden": 6}], ids=["one", "two"])
def test_a_stream_in_parts_is_one_pass(options):
    reader, x = reader_of(tiny(**options)), text()
    whole = read(reader, x)
    for chunk in (1, 16):
        np.testing.assert_allclose(read(reader, x, chunk), whole, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"layers": 2, "hidden": 6}], ids=["one", "two"])
def test_one_row_reads_the_last_byte_only(options):
    reader, x = reader_of(tiny(rows=1, **options)), text(length=16)
    changed = x.copy()
    changed[:, :15] ^= 255
    np.testing.assert_array_equal(read(reader, x)[:, 15], read(reader, changed)[:, 15])
    many = reader_of(tiny(**options))
    assert (read(many, x)[:, 15] != read(many, changed)[:, 15]).all()


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
        layer = net.layers[0]
        found = net.embed.table, layer.table, net.head.kernel, net.head.bias
        return [x[...] for x in found]

    ours, theirs = (jax.jit(jax.value_and_grad(f)) for f in (loss, reference))
    adam = optax.adam(1e-2)
    with jax.numpy_dtype_promotion("standard"):
        weights = weights_of(network)
        a, b = adam.init(params), adam.init(weights)
        for step in range(5):
            x = text(length=17, seed=step)
            (loss_a, grads), (loss_b, others) = ours(params, x, hparams), theirs(weights, x)
            np.testing.assert_allclose(loss_a, loss_b, rtol=1e-6)
            update, a = adam.update(grads, a)
            params = optax.apply_updates(params, update)
            update, b = adam.update(others, b)
            weights = optax.apply_updates(weights, update)
    nnx.update(network, params)
    for trained, expected in zip(weights_of(network), weights, strict=True):
        np.testing.assert_allclose(trained, expected, atol=1e-6)


def test_one_row_is_never_better_than_the_bigrams_of_the_text():
    x = np.random.default_rng(0).integers(0, 3, (2, 65)).astype(np.int32)
    params, loss = loss_function(tiny(rows=1))
    counts = np.zeros((256, 256))
    np.add.at(counts, (x[:, :-1].ravel(), x[:, 1:].ravel()), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    bigram = -(counts * np.log(np.where(share > 0, share, 1))).sum() / counts.sum()
    hparams, found = hparams_of(tiny(rows=1)), []
    gradient = jax.jit(jax.value_and_grad(loss))
    for _ in range(100):
        value, grads = gradient(params, x, hparams)
        found.append(float(value))
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
    assert min(found) >= bigram - 1e-6 and min(found) < bigram + 0.1


@pytest.mark.parametrize("hard", [False, True])
def test_states_are_mixtures_of_the_rows(hard):
    network = build(tiny(straight_through=hard))
    ctx = Context(jax.random.key(0), jnp.int32(0), hparams=hparams_of(tiny(straight_through=hard)))
    layer = network.layers[0]
    x = jax.random.normal(jax.random.key(1), (16, 2, 5))
    states, p = layer(x, jnp.zeros(16, bool), ctx)
    chosen = np.eye(4)[np.asarray(p).argmax(-1)] if hard else np.asarray(p)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(states, chosen @ np.asarray(layer.table[...]), atol=1e-6)
    np.testing.assert_array_equal(layer.state[...], states[-1])


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
    options, x = tiny(), text(length=7)
    params, loss = loss_function(options)
    gradient = jax.jit(jax.grad(loss))
    found = {}
    for k in (1, 2, 9):
        found[k] = gradient(params, x, hparams_of(tiny(bptt=k)))
        expected = jax.grad(explicit)(params, x, k)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found[k], expected)
    kernels = [g["layers"][0]["recur"]["kernel"][...] for g in found.values()]
    assert all((a != b).any() for a, b in zip(kernels, kernels[1:], strict=False))


def test_metrics_of_row_use():
    options = tiny(rows=8, temperature=1e-3)
    network, x = build(options), text(length=64)
    hparams = hparams_of(options)
    sharp = network(x, Context(jax.random.key(0), jnp.int32(0), hparams=hparams)).metrics
    assert float(sharp["layer_0/max_p"].mean()) > 0.95
    assert sharp["layer_0/max_p"].shape == sharp["layer_0/rows_used"].shape == (2, 64)
    hparams |= {"temperature": jnp.float32(1e6)}
    even = network(x, Context(jax.random.key(0), jnp.int32(0), hparams=hparams)).metrics
    np.testing.assert_allclose(even["layer_0/max_p"], 1 / 8, rtol=1e-3)
    np.testing.assert_allclose(even["layer_0/rows_used"], 8, rtol=1e-3)
    assert len(nnx.to_flat_state(nnx.state(network, StreamCarry))) == 1


def test_sizes():
    rows, width, inputs = 4, 3, 5
    head = 256 * inputs + (inputs + width + 1) * 256
    assert size(build(tiny())) == head + (inputs + width + 1) * rows + rows * width
    two = tiny(layers=2, hidden=6)
    layer = [(n + 3 + 1) * 6 + 7 * 4 + 12 for n in (5, 8)]
    assert size(build(two)) == head + 3 * 256 + sum(layer)
