"""Codes sent through the channel, and a decoder that reads the noise."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.text_autoencoder import checks
from flaxae.text_autoencoder.channel import Channel
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import text_space
from flaxae.text_autoencoder.evaluation.paths import texts_of_paths
from flaxae.text_autoencoder.interpolation import noise_on_path, slerp_at


class ReadsNoise(nnx.Module):
    """Its texts are the sigma that it reads, in per cent."""

    num_latents, dim, max_length, vocab_size = 1, 4096, 8, 101
    channel, reads_noise = Channel.PRESERVING, True

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def clean_code(self, z, step):
        return z * self.scale

    def sigma(self, step):
        return jnp.float32(0.6)

    def lowest_sigma(self, step):
        return jnp.float32(0.1)

    def generate(self, z, ctx, num_tokens=0, *, sigma, sampling=None, drop_ended=False):
        return jnp.broadcast_to(jnp.round(100 * sigma)[:, None], (len(z), 8)).astype(jnp.int32)


TOKENIZER: Any = SimpleNamespace(vocab_size=101, decode=lambda rows: [str(x[0]) for x in rows])


def codec(model: Any) -> Codec:
    return Codec(model, TOKENIZER, 0)


def test_the_decoder_reads_the_noise():
    z = np.zeros((3, 1, ReadsNoise.dim), np.float32)
    reads = codec(ReadsNoise())
    assert reads.decode(z) == ["10"] * 3 and reads.decode(z, noise=0.3) == ["30"] * 3
    assert reads.decode(z, noise=0.3, assumed_noise=0.5) == ["50"] * 3
    assert reads.decode(z, assumed_noise=0) == ["0"] * 3
    # The first texts of draws of N(0, I) are those of the largest noise of training.

    def measure(texts: list[str], draws: int) -> dict[str, Any]:
        return {"texts": texts}

    pulled = text_space.pull_to_text(reads, measure, z, (0,), assumed_noise=reads.sigma)
    assert pulled[0]["texts"] == ["60"] * 3


def test_a_decoder_that_reads_the_noise_assumes_that_of_the_place_on_a_path():
    z = np.eye(2, ReadsNoise.dim, dtype=np.float32)[:, None] * ReadsNoise.dim**0.5  # (2, 1, Z)
    reads, fractions = codec(ReadsNoise()), np.linspace(0, 1, 4)
    codes = slerp_at(*z, fractions)
    sines = np.sin(np.pi / 2 * np.asarray([0, 1 / 3, 1 / 3, 0]))
    np.testing.assert_allclose(noise_on_path(codes, *z), sines, atol=1e-3)
    # Within the noise of training, .1 to .6; with more of the channel's noise it is that.
    assert reads.decode(codes, assumed_noise=reads.path_noise(codes, *z)) == [
        "10",
        "50",
        "50",
        "10",
    ]
    far = slerp_at(*z, np.asarray([0.5]))
    assert reads.path_noise(far, *z) == pytest.approx(0.6)
    assert reads.path_noise(z, *z, noise=0.3) == pytest.approx([0.3, 0.3])
    assert reads.path_noise(far, *z, noise=0.8) == pytest.approx(0.8)
    assert texts_of_paths(reads, "slerp", z[:1], z[1:], 4) == [["10", "50", "50", "10"]]
    # The decoder reads no noise, or the noise of another channel.
    plain = ReadsNoise()
    plain.channel = Channel.ADDITIVE
    assert codec(plain).path_noise(codes, *z) is None
    assert texts_of_paths(codec(plain), "slerp", z[:1], z[1:], 4) == [["10"] * 4]


def test_codes_are_received_as_the_decoder_expects_them():
    z = np.random.default_rng(0).normal(size=(2, 1, ReadsNoise.dim)).astype(np.float32)
    preserving = codec(ReadsNoise())
    np.testing.assert_array_equal(preserving.received(z), z)
    noisy = preserving.received(z, 0.6, seed=1)
    np.testing.assert_allclose(np.square(noisy).mean((1, 2)), 1, atol=0.06)
    assert np.mean(noisy * z) == pytest.approx(0.8, abs=0.03)
    np.testing.assert_array_equal(noisy[:1], preserving.received(z[:1], 0.6, seed=1))
    assert not np.allclose(noisy, preserving.received(z, 0.6, seed=2))
    # The additive channel: with any noise up to that of training, codes have the same length.
    scaled = ReadsNoise(scale=float(np.sqrt(1 + 0.6**2)))
    scaled.channel = Channel.ADDITIVE
    additive = codec(scaled)
    for sigma, norm in ((0, 1.36), (0.3, 1.36), (0.6, 1.36), (1.2, 2.44)):
        found = np.square(additive.received(z, sigma)).mean()
        assert found == pytest.approx(norm, rel=0.05)


def test_sigma_out_of_the_channels_range_is_one_clear_error():
    assert checks.noise(3, Channel.ADDITIVE) == 3 and checks.noise(0, Channel.PRESERVING) == 0
    for sigma, channel in (
        (1.0, Channel.PRESERVING),
        (-0.1, Channel.ADDITIVE),
        ("x", Channel.ADDITIVE),
    ):
        with pytest.raises(ConfigError, match=f"noise={sigma!r}: sigma of this model's"):
            checks.noise(sigma, channel)
