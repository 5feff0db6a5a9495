"""Rotary positions: rotated features and scaled frequencies."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.nn.rope import Rope, RopeScaling, rotate


def rotated(rope, positions, seed=0, width=8):
    x = jax.random.normal(jax.random.key(seed), (1, 1, 2, width))
    x = jnp.broadcast_to(x, (1, len(positions), 2, width))
    return np.asarray(rotate(x, *rope.angles(jnp.asarray([positions]))))


def test_products_depend_only_on_the_distance_and_norms_are_kept():
    rope = Rope(8, theta=50.0)
    q, k = rotated(rope, [3, 10, 17], seed=1), rotated(rope, [0, 7, 14], seed=2)
    products = (q * k).sum(-1)
    np.testing.assert_allclose(products[:, 0], products[:, 2], rtol=1e-5)
    assert abs((q[:, 0] * k[:, 2]).sum(-1) - products[:, 0]).min() > 1e-3
    np.testing.assert_allclose(np.square(q).sum(-1)[0, 0], np.square(q).sum(-1)[0, 2], rtol=1e-5)


def test_feature_i_rotates_with_feature_i_plus_half_at_its_frequency():
    x = jnp.zeros((1, 1, 1, 8)).at[..., 1].set(1.0)
    y = np.asarray(rotate(x, *Rope(8, theta=16.0).angles(jnp.asarray([[3]]))))[0, 0, 0]
    angle = 3 * 16.0 ** (-2 / 8)
    want = np.zeros(8)
    want[1], want[5] = np.cos(angle), np.sin(angle)
    np.testing.assert_allclose(y, want, atol=1e-6)


def test_features_beyond_dim_are_unchanged():
    x = jax.random.normal(jax.random.key(0), (1, 2, 1, 10))
    y = rotate(x, *Rope(4).angles(jnp.asarray([[5, 6]])))
    np.testing.assert_array_equal(y[..., 4:], x[..., 4:])
    assert float(abs(y[..., :4] - x[..., :4]).min()) > 0


def test_linear_scaling_stretches_positions():
    plain, scaled = Rope(8), Rope(8, scaling=RopeScaling.LINEAR, factor=4.0)
    np.testing.assert_allclose(rotated(scaled, [8, 20]), rotated(plain, [2, 5]), atol=1e-6)


def test_llama3_scales_only_long_waves():
    plain = Rope(64, theta=500000.0)
    scaled = Rope(64, 500000.0, RopeScaling.LLAMA3, factor=8.0, low=1.0, high=4.0)
    ratio = scaled.frequencies() / plain.frequencies()
    lengths = 2 * np.pi / plain.frequencies()
    np.testing.assert_allclose(ratio[lengths < 8192 / 4], 1.0)
    np.testing.assert_allclose(ratio[lengths > 8192], 1 / 8, rtol=1e-6)
    between = ratio[(lengths > 8192 / 4) & (lengths < 8192)]
    assert len(between) > 1 and np.all(np.diff(between) < 0) and np.all(between > 1 / 8)
