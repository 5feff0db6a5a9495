"""Losses: known values, gradients, and properties of MMD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxae import losses
from flaxae.losses import Kernel, mmd


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(13, 8)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(11, 8)), jnp.float32)
    targets = np.asarray(x @ table.T).argmax(-1)  # hits but for every third row
    targets[::3] = rng.integers(0, 11, 5)
    weights = jnp.asarray([1, 0.5, 0, 1, 1, 0, 2, 1, 0.25, 1, 0, 1, 1], jnp.float32)
    return x, table, jnp.asarray(targets, jnp.int32), weights


def reference(x, table, targets, weights):
    logp = jax.nn.log_softmax(x @ table.T)
    return -jnp.sum(logp[jnp.arange(len(targets)), targets] * weights)


def test_cross_entropy_equals_log_softmax(head):
    x, table, targets, weights = head
    loss, correct = losses.cross_entropy(x @ table.T, targets, weights)
    np.testing.assert_allclose(loss, reference(*head), rtol=1e-6)
    hits = np.asarray((x @ table.T).argmax(-1) == targets)
    assert float(correct) == (hits * np.asarray(weights)).sum()
    # Hits and misses have weights, and a hit has none: the sum needs both.
    assert len({float(correct), float(hits.sum()), float(weights.sum()), 0.0}) == 4
    grads = jax.grad(lambda x: losses.cross_entropy(x @ table.T, targets, weights)[0])(x)
    np.testing.assert_allclose(grads, jax.grad(reference)(*head), atol=1e-6)


@pytest.mark.parametrize(("chunks", "skip"), [(1, False), (2, False), (4, False), (4, True)])
def test_linear_cross_entropy_equals_the_plain_one(head, chunks, skip):
    x, table, targets, weights = head
    if skip:
        weights = weights.at[::2].set(0)  # so that half of the chunks are empty

    def loss(x, table):
        return 3 * losses.linear_cross_entropy(x, table, targets, weights, chunks, skip)[0]

    value, grads = jax.value_and_grad(loss, (0, 1))(x, table)
    expected, expected_grads = jax.value_and_grad(
        lambda x, t: 3 * reference(x, t, targets, weights), (0, 1)
    )(x, table)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    plain = losses.cross_entropy(x @ table.T, targets, weights)[1]
    found = losses.linear_cross_entropy(x, table, targets, weights, chunks, skip)
    assert float(found[1]) == float(plain)
    np.testing.assert_allclose(found[0] * 3, expected, rtol=1e-6)


def population(dim, kernel, n=4000, gammas=()):
    """Return MMD^2 of a point mass at 0 and N(0, I), from many draws."""
    prior = jax.random.normal(jax.random.key(0), (n, dim))
    zeros = jnp.zeros((2, dim))
    yy = losses.kernel_matrix(losses.squared_distances(prior, prior), dim, kernel, gammas)
    yy = (yy.sum() - jnp.trace(yy)) / (n * (n - 1))
    of = losses.squared_distances(zeros, prior)
    xy = losses.kernel_matrix(of, dim, kernel, gammas).mean()
    return float(1 + yy - 2 * xy)


@pytest.mark.parametrize(("dim", "value"), [(2, 0.167), (20, 2.6e-3), (32, 1.0e-3), (128, 6.1e-5)])
def test_legacy_kernel_hardly_detects_a_collapse(dim, value):
    assert population(dim, Kernel.LEGACY) == pytest.approx(value, rel=0.1)


@pytest.mark.parametrize("dim", [2, 20, 128, 768])
def test_rbf_detects_a_collapse_at_every_dimension(dim):
    assert population(dim, Kernel.RBF, gammas=(1 / (2 * dim),)) == pytest.approx(0.155, abs=0.02)


def test_legacy_scores_a_collapse_below_the_prior_itself():
    """Compare at d = 768, n = 1024: the reason why IMQ is the default."""
    a, b = jax.random.normal(jax.random.key(1), (2, 1024, 768))
    collapsed = float(mmd(jnp.zeros((1024, 768)), a, Kernel.LEGACY))
    normal = float(mmd(b, a, Kernel.LEGACY))
    assert collapsed < normal
    assert normal == pytest.approx(5.3e-6, rel=0.3)
    assert collapsed == pytest.approx(4.3e-6, rel=0.3)
    assert mmd(jnp.zeros((1024, 768)), a) > 100 * abs(mmd(b, a))


@pytest.mark.parametrize("kernel", [Kernel.IMQ, Kernel.RBF])
def test_u_statistic_has_mean_zero_under_the_null(kernel):
    draws = losses.mmd_null(jax.random.key(2), 32, 8, kernel, draws=400)
    assert abs(draws.mean()) < 4 * draws.std() / np.sqrt(len(draws))
    assert (draws < 0).any()


# Not RBF_MEDIAN: its bandwidth has no gradient, but finite differences include its change.
@pytest.mark.parametrize("kernel", [k for k in Kernel if k is not Kernel.RBF_MEDIAN])
def test_gradient_equals_finite_differences(kernel):
    z, prior, direction = jax.random.normal(jax.random.key(3), (3, 6, 4))
    step = 1e-2
    slope = (
        mmd(z + step * direction, prior, kernel) - mmd(z - step * direction, prior, kernel)
    ) / (2 * step)
    grads = jax.grad(lambda z: mmd(z, prior, kernel))(z)
    assert float(jnp.sum(grads * direction)) == pytest.approx(float(slope), rel=2e-2, abs=1e-4)


def test_rows_that_pad_a_batch_do_not_count():
    z, prior = jax.random.normal(jax.random.key(4), (2, 16, 4))
    padded = jnp.concatenate([z, jnp.full((4, 4), 9.0)])
    weights = jnp.asarray([1.0] * 16 + [0.0] * 4)
    assert float(mmd(padded, prior, weights=weights)) == pytest.approx(
        float(mmd(z, prior)), abs=1e-6
    )


@pytest.mark.parametrize("kernel", [Kernel.IMQ, Kernel.RBF_MEDIAN])
def test_the_mmd_of_one_code_is_undefined(kernel):
    """It has no pair of codes, and would draw codes together: value and gradient are 0."""
    z, prior = jax.random.normal(jax.random.key(4), (2, 4, 3))
    run = jax.jit(jax.value_and_grad(lambda z, weights: mmd(z, prior, kernel, weights=weights)))
    for real, defined in ((0, False), (1, False), (2, True)):
        value, grads = run(z, (jnp.arange(4) < real).astype(jnp.float32))
        assert bool(value != 0) == bool(jnp.any(grads != 0)) == defined
        assert jnp.all(jnp.isfinite(grads))
    with pytest.raises(ValueError, match="two codes and two draws, not 1 and 4"):
        mmd(z[:1], prior, kernel)
    with pytest.raises(ValueError, match="two codes and two draws, not 4 and 1"):
        mmd(z, prior[:1], kernel)
    # A queue of earlier codes makes the pairs.
    assert mmd(z[:1], prior, kernel, reference=z[1:]) != 0


def test_imq_is_the_sum_of_seven_scales():
    """At squared distance 6 in 3 dimensions C / (C + 6) has C = 6 s."""
    by_hand = [0.6 / 6.6, 1.2 / 7.2, 3 / 9, 6 / 12, 12 / 18, 30 / 36, 60 / 66]
    found = losses.kernel_matrix(jnp.asarray([[6.0, 0.0]]), 3, Kernel.IMQ)
    np.testing.assert_allclose(found, [[sum(by_hand), 7.0]], rtol=1e-6)
    rbf = losses.kernel_matrix(jnp.asarray([[6.0]]), 3, Kernel.RBF)
    expected = (np.exp(-0.5) + np.exp(-1) + np.exp(-2)) / 3  # gammas 1/12, 1/6 and 1/3
    np.testing.assert_allclose(rbf, [[expected]], rtol=1e-6)
    legacy = losses.kernel_matrix(jnp.asarray([[6.0]]), 3, Kernel.LEGACY)
    np.testing.assert_allclose(legacy, [[np.exp(-6 / 9)]], rtol=1e-6)


def test_mmd_of_two_codes_by_hand():
    """One pair on each side: k(z1, z2) + k(p1, p2) - 2 mean k(z, p)."""
    prior = jnp.asarray([[0.0], [2.0]])  # the codes are 0 and 1

    def k(r):
        return sum(2 * s / (2 * s + r) for s in losses.IMQ_SCALES)

    expected = k(1) + k(4) - 2 * (k(0) + k(4) + k(1) + k(1)) / 4
    padded = jnp.asarray([[0.0], [7.0], [1.0]])
    found = jax.jit(lambda z: (mmd(z[::2], prior), mmd(z, prior, weights=jnp.asarray([1, 0, 1.0]))))
    np.testing.assert_allclose(found(padded), [expected, expected], rtol=1e-5)


def test_reference_rows_keep_the_scale_of_the_gradient():
    keys = jax.random.split(jax.random.key(5), 3)
    z, more, prior = (
        jax.random.normal(key, (n, 4)) + shift
        for key, n, shift in zip(keys, (64, 512, 576), (1.0, 1.0, 0.0), strict=True)
    )
    alone = jax.grad(lambda z: mmd(z, prior[:64]))(z)
    helped = jax.grad(lambda z: mmd(z, prior, reference=more))(z)
    ratio = float(jnp.linalg.norm(helped.mean(0)) / jnp.linalg.norm(alone.mean(0)))
    assert 0.7 < ratio < 1.4
    both = mmd(jnp.concatenate([z, more]), prior)
    assert float(mmd(z, prior, reference=more)) == pytest.approx(float(both), abs=1e-5)
    assert not jnp.any(jax.grad(lambda more: mmd(z, prior, reference=more))(more))


def test_eight_devices_equal_one():
    z, prior = jax.random.normal(jax.random.key(6), (2, 64, 16))
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, P("fsdp"))
    run = jax.jit(jax.value_and_grad(mmd))
    value, grad = run(z, prior)
    split_value, split_grad = run(jax.device_put(z, rows), jax.device_put(prior, rows))
    assert float(split_value) == pytest.approx(float(value), abs=1e-6)
    np.testing.assert_allclose(np.asarray(split_grad), np.asarray(grad), atol=1e-7)


def test_kl_equals_its_integral():
    """Compare with a numerical integral in one dimension."""
    mean, log_variance = 0.7, -0.4
    x = np.linspace(-12, 12, 200_001)
    std = np.exp(log_variance / 2)
    q = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    logp = -0.5 * x**2 - 0.5 * np.log(2 * np.pi)
    integral = np.sum(q * (np.log(q + 1e-300) - logp)) * (x[1] - x[0])
    value = losses.kl_to_standard_normal(jnp.float32(mean), jnp.float32(log_variance))
    assert float(value) == pytest.approx(integral, abs=1e-4)
