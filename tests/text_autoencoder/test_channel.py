"""The channel: moments, capacity, and codes without noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.text_autoencoder.channel import Channel, bits, transmit

Z, NOISE = jax.random.normal(jax.random.key(0), (2, 5, 3, 8))
SIGMAS = jnp.asarray([0.0, 0.1, 0.5, 0.8, 0.99])


@pytest.mark.parametrize("channel", Channel)
def test_codes_without_noise_are_unchanged(channel):
    np.testing.assert_array_equal(transmit(Z, 0.0, channel, NOISE), Z)


@pytest.mark.parametrize("channel", Channel)
def test_each_text_has_its_own_sigma(channel):
    together = transmit(Z, SIGMAS, channel, NOISE)
    for i, sigma in enumerate(SIGMAS):
        np.testing.assert_array_equal(together[i], transmit(Z, sigma, channel, NOISE)[i])


def test_the_preserving_channel_keeps_the_second_moment():
    """Exactly so where noise is orthogonal to the code: (1 - sigma^2) + sigma^2 = 1."""
    both = jnp.linalg.qr(jnp.stack([Z, NOISE], -1))[0] * 8**0.5  # (B, L, 8, 2)
    for sigma in SIGMAS:
        received = transmit(both[..., 0], sigma, Channel.PRESERVING, both[..., 1])
        np.testing.assert_allclose(np.square(received).mean(-1), 1, rtol=1e-5)
    received = transmit(both[..., 0], 0.5, Channel.ADDITIVE, both[..., 1])
    np.testing.assert_allclose(np.square(received).mean(-1), 1.25, rtol=1e-5)


def test_capacity_of_known_codes():
    for sigma in (0.1, 0.5, 1.0):
        unit = bits(np.ones(64), sigma, Channel.PRESERVING)
        assert unit == pytest.approx(64 * np.log2(1 / sigma))
    assert bits(np.asarray([3.0, 3.0, 0.0]), 1.0, Channel.ADDITIVE) == pytest.approx(2)
    variances = np.square(np.asarray(NOISE[0, 0]))
    additive = bits(variances, 0.3, Channel.ADDITIVE)
    assert additive == pytest.approx(0.5 * np.log2(1 + variances / 0.09).sum())
    assert bits(variances, 0.3, Channel.PRESERVING) < additive
    assert bits(variances, 0.0, Channel.PRESERVING) == float("inf")
