"""Changed codes are put back on the model's space, by the API and by the evaluation."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flaxae.errors import ConfigError
from flaxae.text_autoencoder.api import TextAutoencoder
from flaxae.text_autoencoder.channel import Channel, on_space
from flaxae.text_autoencoder.evaluation import attributes, latent
from flaxae.text_autoencoder.priors import GaussianPrior, StandardNormal
from tests.text_autoencoder.test_attributes import labelled

LATENTS, DIM = 2, 3


def placed(z):
    """Return codes of which each latent has norm sqrt(3)."""
    return z / np.linalg.norm(z, axis=-1, keepdims=True) * 3**0.5


class Recorder(TextAutoencoder):
    """An autoencoder that keeps what its engine decodes; its code of a text is random."""

    family = "Recorder"

    def __init__(self, channel: Channel = Channel.PRESERVING, reads_noise: bool = False):
        self.decoded: list[tuple[np.ndarray, float | None]] = []
        self.num_latents, self.dim, self.channel = LATENTS, DIM, channel
        self._codec: Any = SimpleNamespace(
            channel=channel,
            reads_noise=reads_noise,
            sigma=0.9,
            scale=1.0,
            decode=self._record,
            on_space=lambda z: on_space(z, channel),
            path_noise=lambda z, *_: np.full(len(z), 0.5, np.float32) if reads_noise else None,
        )

    def _record(self, z, sampling, seed, noise, assumed):
        self.decoded.append((z, assumed))
        return ["a text"] * len(z)

    def encode(self, texts, *, truncate=False):
        codes = [np.random.default_rng(len(t)).normal(size=(LATENTS, DIM)) for t in texts]
        out = np.asarray(codes, np.float32).reshape(len(texts), LATENTS, DIM)
        return on_space(out, self.channel)


def test_only_the_preserving_channel_has_a_sphere():
    z = np.random.default_rng(0).normal(size=(4, LATENTS, DIM)).astype(np.float32)
    np.testing.assert_array_equal(on_space(z, Channel.ADDITIVE), z)
    np.testing.assert_allclose(on_space(z, Channel.PRESERVING), placed(z), rtol=1e-6)
    assert np.isfinite(on_space(np.zeros((1, 1, 3)), Channel.PRESERVING)).all()


def test_changed_codes_are_on_the_sphere_and_drawn_ones_are_as_drawn():
    vae = Recorder()
    a, b, c = vae.encode(["a", "bb", "ccc"])
    vae.analogy(a, b, c)
    vae.traverse(a, 1, [5.0])
    moved = a.copy()
    moved[0, 1] = 5
    vae.interpolate(a, b, 3, path="lerp")
    vae.decode(a[None] + b)
    codes = [z for z, _ in vae.decoded]
    np.testing.assert_allclose(codes[0][0], placed(a - b + c), rtol=1e-5)
    np.testing.assert_allclose(codes[1][0], placed(moved), rtol=1e-5)
    np.testing.assert_allclose(codes[2], placed(np.stack([a, (a + b) / 2, b])), rtol=1e-5)
    np.testing.assert_array_equal(codes[3][0], a + b)
    np.testing.assert_allclose(vae.on_space(a + b)[0], placed(a + b), rtol=1e-5)
    vae.sample(2)
    drawn = StandardNormal(6).sample(2).reshape(2, LATENTS, DIM)
    np.testing.assert_array_equal(vae.decoded[-1][0], drawn)


def test_measured_arithmetic_is_that_of_the_api():
    vae, train, held_out = Recorder(), labelled(40, 0), labelled(10, 1)
    attributes.study(vae, train, held_out, {}, strengths=(1.0,), draws=5)
    measured = vae.decoded[0][0]
    means = [vae.encode([t for t, x in zip(*train, strict=True) if x == y]) for y in (0, 1)]
    first, second = (x.mean(0) for x in means)
    for text, label, code in zip(*held_out, measured, strict=True):
        vae.analogy(*((first, second) if label else (second, first)), text)
        np.testing.assert_allclose(vae.decoded[-1][0][0], code, rtol=1e-5)


def test_draws_of_the_normal_have_the_largest_noise_and_paths_that_of_the_place():
    vae = Recorder(reads_noise=True)
    vae.sample(1, prior=StandardNormal(6))
    vae.sample(1, prior=GaussianPrior.fit(np.random.default_rng(0).normal(size=(9, 6))))
    vae.sample(1, prior=StandardNormal(6), assumed_noise=0.2)
    vae.decode(vae.encode(["a"]), noise=0.5)
    assert [x for _, x in vae.decoded] == [0.9, None, 0.2, None]
    vae.decoded.clear()
    vae.interpolate("a", "bb", 3, path="denoised", rounds=2)
    vae.interpolate("a", "bb", 3)
    first, second, last, mixed = (x for _, x in vae.decoded)
    # Only codes between two ends have the noise of their place; those of texts have none.
    assert second is last is None
    np.testing.assert_array_equal(first, [0.5])
    np.testing.assert_array_equal(mixed, [0.5] * 3)
    vae.interpolate("a", "bb", 3, assumed_noise=0.2)
    assert vae.decoded[-1][1] == 0.2
    with pytest.raises(ConfigError, match=r"assumed_noise of shape \(2,\): give one per code"):
        vae.decode(vae.encode(["a"]), assumed_noise=np.asarray([0.1, 0.2]))
    with pytest.raises(ConfigError, match="assumed_noise=2: sigma of this model's preserving"):
        vae.decode(vae.encode(["a"]), assumed_noise=2)
    with pytest.raises(ConfigError, match="assumed_noise=0.5: the decoder of this model does not"):
        Recorder().decode(vae.encode(["a"]), assumed_noise=0.5)


def test_bits_are_reported_at_both_ends_of_the_noise_and_the_mmd_has_all_of_it():
    z = placed(np.random.default_rng(0).normal(size=(300, LATENTS, DIM)))
    options: Any = {"sigma": 0.8, "tokens_per_line": 5.0, "most": 300}
    found: Any = latent.study(z, None, **options, channel=Channel.PRESERVING, lowest_sigma=0.2)
    one: Any = latent.study(z, None, **options, channel=Channel.PRESERVING)
    assert found["bits"]["per_line"] == pytest.approx(6 * np.log2(1 / 0.8), abs=0.1)
    assert found["bits_at_lowest"]["per_line"] == pytest.approx(6 * np.log2(1 / 0.2), abs=0.1)
    assert "bits_at_lowest" not in one and one["lowest_sigma"] == 0.8
    assert found["mmd_with_noise"] > one["mmd_with_noise"]  # codes with less noise are less normal
