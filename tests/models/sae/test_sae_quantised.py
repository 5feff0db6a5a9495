"""Discrete codes, per-layer autoencoders, two-hot encoding and DeepHoyer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.models.sae.penalties import from_two_hot, group_hoyer_square, hoyer_square, two_hot
from flaxae.models.sae.per_layer import LayeredAutoencoder, RunningNorm, layered_loss
from flaxae.models.sae.quantised import FSQ, VQ, StateTokenizer
from tests.sparse_autoencoder.tiny_dictionaries import context

L, D = 3, 4
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, L, D)).astype(np.float32))


@pytest.mark.parametrize("levels", [(3,), (8, 5), (3, 4, 7)])
def test_fsq_reaches_all_levels_and_numbers_them(levels):
    fsq = FSQ(levels)
    z = np.random.default_rng(1).uniform(-3, 3, (20_000, len(levels))).astype(np.float32)
    codes = jax.jit(lambda z: fsq(z, jnp.ones(20_000), context()))(z)
    assert set(np.asarray(codes.index)) == set(range(fsq.size))
    np.testing.assert_allclose(fsq.values(codes.index), codes.values, atol=1e-6)
    for i, level in enumerate(levels):
        assert len(np.unique(np.round(np.asarray(codes.values)[:, i], 4))) == level


def test_fsq_bounds_equal_the_formula():
    z = jnp.asarray([[-9.0, -9.0], [0.0, 0.0], [9.0, 9.0]])
    bounded = jax.jit(FSQ((4, 5)).bounded)(z)
    half = np.asarray([3, 4]) * 1.001 / 2
    np.testing.assert_allclose(bounded[1], 0, atol=1e-6)
    np.testing.assert_allclose(bounded[2], half - [0.5, 0], atol=1e-3)
    np.testing.assert_allclose(bounded[0], -half - [0.5, 0], atol=1e-3)
    # Straight-through: the gradient of rounding is 1; that of tanh remains.
    whole = jax.jit(jax.grad(lambda z: FSQ((5,))(z, jnp.ones(1), context()).values.sum()))
    grad = whole(jnp.zeros((1, 1)))
    np.testing.assert_allclose(grad, [[2 * 1.001 / 2]], rtol=1e-5)
    with pytest.raises(ConfigError, match="each must be 3 or more"):
        FSQ((4, 2))


@jax.jit
def _quantise(state, z, weights):
    vq = nnx.merge(GRAPHS[0], state)
    codes = vq(z, weights, context(train=True))
    return codes, nnx.split(vq)[1]


GRAPHS: list = []


def trained_step(vq, z, weights):
    """Return the codes of a training step, and the quantiser after it."""
    graph, state = nnx.split(vq)
    GRAPHS[:] = [graph]
    codes, state = _quantise(state, z, weights)
    return codes, nnx.merge(graph, state)


def test_vq_chooses_the_nearest_code_and_moves_it():
    vq = VQ(3, 2, rngs=nnx.Rngs(0), commitment=0.5, decay=0.9, restart=0.0)
    vq.sums[...] = np.asarray([[0.0, 0], [4, 4], [-9, 9]], np.float32)
    vq.counts[...] = jnp.ones(3)
    z = jnp.asarray([[1.0, 0], [3, 3], [5, 4], [0, 0]])
    weights = jnp.asarray([1.0, 1, 1, 0])
    codes, vq = trained_step(vq, z, weights)
    np.testing.assert_array_equal(codes.index, [0, 1, 1, 0])
    np.testing.assert_allclose(codes.values, [[0, 0], [4, 4], [4, 4], [0, 0]])
    np.testing.assert_allclose(codes.loss, [0.5, 1, 0.5, 0])
    np.testing.assert_allclose(vq.counts[...], [1.0, 0.9 + 0.2, 0.9], rtol=1e-6)
    codebook = np.asarray(vq.sums[...]) / np.asarray(vq.counts[...])[:, None]
    np.testing.assert_allclose(codebook[1], (0.9 * 4 + 0.1 * np.asarray([8, 7])) / 1.1, rtol=1e-6)
    np.testing.assert_allclose(vq.values(codes.index)[1], codebook[1], rtol=1e-6)
    before = vq.sums[...]
    grad = jax.jit(jax.grad(lambda z: vq(z, weights, context()).values.sum()))(z)
    np.testing.assert_array_equal(grad, jnp.ones_like(z))
    np.testing.assert_array_equal(vq.sums[...], before)  # an evaluation moves nothing


def test_unused_codes_restart_at_tokens_that_are_not_padding():
    vq = VQ(4, 2, rngs=nnx.Rngs(0))
    z = jnp.asarray([[7.0, 7], [8, 8], [-1, -1]])
    weights = jnp.asarray([1.0, 1, 0])
    codes, vq = trained_step(vq, z, weights)
    assert set(np.asarray(vq.codebook[:, 0]).round(3)) <= {7.0, 8.0}  # the first batch
    assert set(np.asarray(codes.values[:2, 0]).round(3)) <= {7.0, 8.0}
    # In the next step, codes that were hardly chosen are at tokens of that batch.
    vq.counts[...] = jnp.asarray([2.0, 0.9, 0.9, 0.9])
    kept = np.asarray(vq.codebook[0])
    _, vq = trained_step(vq, z + 10, weights)
    assert set(np.asarray(vq.codebook[1:, 0]).round(3)) <= {17.0, 18.0}
    np.testing.assert_allclose(vq.codebook[0], kept, rtol=1e-5)
    nothing = jnp.zeros(3)
    before = vq.codebook
    _, vq = trained_step(vq, z, nothing)
    np.testing.assert_allclose(vq.codebook, before, rtol=1e-5)


@pytest.mark.parametrize("kind", ["vq", "fsq"])
def test_a_state_tokenizer_keeps_layers_apart(kind):
    """Each layer has tokens of its own, and the token axis is not mixed with layers or rows."""
    quantiser = FSQ((8, 6)) if kind == "fsq" else VQ(32, 2, rngs=nnx.Rngs(1))
    sizes = {"tokens": 2, "hidden": 6, "quantiser": quantiser}
    tokenizer = StateTokenizer(L, D, **sizes, rngs=nnx.Rngs(0))

    @jax.jit
    def run(x, bump):
        def first(x):
            codes = tokenizer.encode(x, context())
            states = tokenizer.decode(codes.values + bump, context())
            return states[0, 0].sum(), (codes, states)

        (_, found), grads = jax.value_and_grad(first, has_aux=True)(x)
        return *found, grads

    none = np.zeros((5, L, 2, 2), np.float32)
    codes, states, grads = run(X, none)
    assert codes.index.shape == (5, L, 2) and codes.values.shape == (5, L, 2, 2)
    assert tokenizer.bits == pytest.approx(2 * np.log2(quantiser.size))
    changed, *_ = run(np.asarray(X) + 3 * np.eye(15).reshape(5, 3, 15)[..., 5:6].astype("f"), none)
    moved = (np.asarray(changed.values) != np.asarray(codes.values)).any(-1).any(-1)
    assert moved[1, 2] and moved.sum() == 1
    assert states.shape == X.shape
    bump = none.copy()
    bump[1, 2, 0] = 1
    moved = (np.asarray(run(X, bump)[1]) != np.asarray(states)).any(-1)
    assert moved[1, 2] and moved.sum() == 1
    assert np.abs(grads[0, 0]).max() > 0 and not np.asarray(grads)[1:].any()


def test_layered_autoencoders_normalise_and_weigh_features():
    model = LayeredAutoencoder(L, D, 7, normalised=True, rngs=nnx.Rngs(0))
    weights = jnp.asarray([1.0, 1, 1, 1, 0])
    graph, state = nnx.split(model)

    @jax.jit
    def run(state):
        model = nnx.merge(graph, state)
        found = model(X, context(train=True), weights)
        statistics = model.norm.statistics(X, weights, context(train=True))
        total, parts = layered_loss(found, X, weights, importance=importance, sparsity=0.5)
        return found, statistics, total, parts, nnx.split(model)[1]

    importance = jnp.asarray(np.random.default_rng(2).uniform(size=(L, D)), jnp.float32)
    found, (mean, std), total, parts, state = run(state)
    assert found.latents.shape == (5, L, 7)
    norm = nnx.merge(graph, state).norm  # after two steps with one batch
    np.testing.assert_allclose(norm.mean[...], np.asarray(X)[:4].mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.variance[...], np.asarray(X)[:4].var(0), rtol=1e-4)
    np.testing.assert_allclose(mean, np.asarray(X)[:4].mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(std, np.asarray(X)[:4].std(0), rtol=1e-4)
    error = np.asarray(found.output - X) * np.asarray(importance)
    np.testing.assert_allclose(parts["recon"], (error[:4] ** 2).sum(), rtol=1e-5)
    f = np.asarray(found.latents)[:4].reshape(4, -1)
    hoyer = np.abs(f).sum(1) ** 2 / (f**2).sum(1)
    np.testing.assert_allclose(parts["sparsity"], hoyer.sum(), rtol=1e-4)
    np.testing.assert_allclose(total, parts["recon"] + 0.5 * parts["sparsity"], rtol=1e-6)


def test_running_statistics_are_those_of_weighted_batches():
    norm = RunningNorm(L, D, decay=0.75)
    graph, state = nnx.split(norm)

    @jax.jit
    def step(state, x, weights):
        norm = nnx.merge(graph, state)
        norm.statistics(x, weights, context(train=True))
        return nnx.split(norm)[1]

    batches = np.random.default_rng(3).normal(size=(3, 5, L, D)).astype(np.float32) + 300
    batches += np.arange(3, dtype=np.float32)[:, None, None, None]  # means differ by batch
    weights = jnp.asarray([1.0, 1, 1, 1, 0])
    for x in batches:
        state = step(state, x, weights)
    state = step(state, batches[0], jnp.zeros(5))  # only padding: nothing moves
    each = np.asarray([0.75**2, 0.25 * 0.75, 0.25]) / 4
    rows, share = batches[:, :4].astype(np.float64), each[:, None, None, None]
    mean = (rows * share).sum((0, 1))
    norm = nnx.merge(graph, state)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-6)
    variance = (np.square(rows - mean) * share).sum((0, 1))
    np.testing.assert_allclose(norm.variance[...], variance, rtol=1e-3)


def test_two_hot_is_inverted_exactly_inside_and_clipped_outside():
    bins = jnp.asarray([-2.0, -1, 0, 3, 10])
    x = jnp.asarray([-2.0, -1.5, 0, 0.6, 3, 9.9, 10])
    both = jax.jit(lambda x: (two_hot(x, bins), from_two_hot(two_hot(x, bins), bins)))
    weights, back = map(np.asarray, both(x))
    np.testing.assert_allclose(back, x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert ((weights > 0).sum(-1) <= 2).all()
    outside = jnp.asarray([-5.0, 99, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(both(outside)[1], [-2, 10, 0, 0, 0, 0, 0])


def test_deep_hoyer():
    whole = jax.jit(hoyer_square)
    x = jnp.asarray([[3.0, 0, 0, 0], [0, -4, 0, 0]])
    np.testing.assert_allclose(whole(x), 49 / 25)
    np.testing.assert_allclose(whole(10 * x), 49 / 25, rtol=1e-6)
    np.testing.assert_allclose(whole(jnp.ones((2, 4))), 8)
    assert whole(jnp.zeros((2, 4))) == 0
    grouped = jax.jit(jax.value_and_grad(group_hoyer_square))
    np.testing.assert_allclose(grouped(jnp.asarray([[3.0, 4], [0, 0]]))[0], 1)
    np.testing.assert_allclose(grouped(jnp.ones((2, 2)))[0], 2, rtol=1e-6)
    assert np.isfinite(grouped(jnp.zeros((2, 2)))[1]).all()
