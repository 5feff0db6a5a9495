"""Every bottleneck: the dependence of z on texts and padding; noise in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.models.t5_vae import bottlenecks, noise, reading
from flaxae.models.t5_vae.noise import NoiseConfig
from flaxae.task import Context
from flaxae.text_autoencoder.channel import Channel, transmit
from tests.models.t5_vae.tiny import tiny_config, tiny_model, tiny_task

IDS = jnp.asarray([[5, 6, 1, 0], [7, 8, 9, 1]], jnp.int32)
OTHER = jnp.full((3, 8), 9, jnp.int32)
KINDS = {
    "flatten": {},
    "flatten gaussian": {"bottleneck": "flatten", "gaussian": True},
    "mean": {"bottleneck": "mean"},
    "resampler": {"bottleneck": "resampler", "num_latents": 3},
    "resampler gaussian": {"bottleneck": "resampler", "num_latents": 2, "gaussian": True},
    "first_n": {"bottleneck": "first_n", "first_n": 3, "tanh": True},
    "attention_pool": {"bottleneck": "attention_pool", "num_latents": 2},
    "preserving": {"bottleneck": "resampler", "num_latents": 2, "channel": "preserving"},
}


def latent(options):
    return {f"task__latent__{name}": value for name, value in options.items()}


@pytest.fixture
def ctx():
    return Context(key=jax.random.key(0), step=jnp.int32(0))


def test_a_gaussians_log_variance_starts_at_its_option():
    options = tiny_config(**latent({"gaussian": True, "log_variance": -3.0, "num_latents": 2}))
    out = jnp.arange(32.0).reshape(1, 32)  # two latents of a mean and a log-variance of 8 numbers
    mean, log_variance = bottlenecks.split(out, options.task.latent)
    np.testing.assert_array_equal(mean[0, 1], jnp.arange(16.0, 24.0))
    np.testing.assert_array_equal(log_variance[0, 1], jnp.arange(24.0, 32.0) - 3)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_padding_nor_other_rows_change_z(kind, ctx):
    task = tiny_task(**latent(KINDS[kind]))

    graphdef, state = nnx.split(tiny_model(task))

    @jax.jit
    def codes(state):
        model = nnx.merge(graphdef, state)
        padded = jnp.pad(IDS, ((0, 0), (0, 4)))
        return [model.posterior(ids, ctx) for ids in ([IDS], [padded], [IDS, OTHER])]

    alone, padded, beside = codes(state)
    num = KINDS[kind].get("num_latents", 1)
    gaussian = KINDS[kind].get("gaussian", False)
    assert alone[0].shape == (2, num, 8) and alone[0].dtype == jnp.float32
    assert (alone[1] is not None) == gaussian
    for i in range(1 + gaussian):
        np.testing.assert_allclose(alone[i], padded[i], atol=1e-5)
        np.testing.assert_allclose(alone[i], beside[i][:2], atol=1e-5)
    assert float(jnp.abs(alone[0][0] - alone[0][1]).max()) > 0.01
    if kind in ("attention_pool", "preserving"):
        np.testing.assert_allclose(jnp.linalg.norm(beside[0], axis=-1), 8**0.5, rtol=1e-5)
    if kind == "first_n":
        assert float(jnp.abs(beside[0]).max()) < 1


def test_first_n_reads_only_the_first_states():
    module = bottlenecks.FirstN(2, 4, 3, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))
    states = jax.random.normal(jax.random.key(1), (2, 5, 4))
    z = module([states], None, ctx)
    np.testing.assert_array_equal(z, module([states.at[:, 2:].set(0)], None, ctx))
    short = module([states[:, :1]], None, ctx)
    np.testing.assert_allclose(short, module([states.at[:, 1:].set(0)], None, ctx), atol=1e-6)


def test_samples_have_the_moments_of_the_posterior(ctx):
    mean, log_variance = jnp.full((4000, 1, 2), 3.0), jnp.full((4000, 1, 2), np.log(0.25))
    draws = bottlenecks.sampled(mean, log_variance, ctx)
    assert float(draws.mean()) == pytest.approx(3, abs=0.05)
    assert float(draws.std()) == pytest.approx(0.5, abs=0.02)
    assert bottlenecks.sampled(mean, None, ctx) is mean


def test_wrong_fields_are_named():
    for options, name in (
        ({"tanh": True}, "latent.tanh"),
        ({"bottleneck": "attention_pool", "gaussian": True}, "latent.gaussian"),
        ({"num_latents": 0}, "latent.num_latents"),
        ({"channel": "preserving", "gaussian": True}, "latent.channel=preserving"),
        ({"channel": "preserving", "noise_end": 1.0}, r"latent.noise_end=1\.0"),
        ({"target_bits": 64.0, "noise_end": 0.1}, "latent.target_bits"),
        ({"noise_low": 0.1, "noise_end": 0.2}, r"latent.noise_low=0\.1 needs"),
        ({"noise_low": 0.3, "noise_end": 0.2, "reads_noise": True}, r"latent.noise_low=0\.3 needs"),
        ({"reads_noise": True}, "latent.reads_noise without noise"),
        ({"reads_estimate": True, "channel": "preserving"}, "latent.reads_estimate needs"),
        ({"reads_estimate": True, "reads_noise": True, "noise_end": 0.5}, "reads_estimate needs"),
        ({"target_bits": 90.0}, "target_bits=90: 8 numbers carry at most 80 bits"),
        ({"target_bits": 80.0, "dim": 9000}, "target_bits keeps .* 9000 x 9000 numbers"),
    ):
        with pytest.raises(ConfigError, match=name):
            tiny_config(**latent(options)).freeze()
    with pytest.raises(ConfigError, match="noise.mask"):
        tiny_config(task__noise__mask=1.0).freeze()
    for fields, name in (
        ({"share": 0.5}, "task.noise.share and task.noise.start"),
        ({"start": 0.5, "word_dropout": 0.2}, "task.noise.share and task.noise.start"),
        ({"shuffle": 1.0, "swap": 2}, "task.noise.swap=2"),
    ):
        with pytest.raises(ConfigError, match=name):
            tiny_config(**{f"task__noise__{k}": v for k, v in fields.items()}).freeze()


def test_the_decoder_reads_the_best_linear_estimate_of_a_clean_code():
    estimates = bottlenecks.LatentConfig(channel=Channel.PRESERVING, reads_estimate=True)
    z, noise = jax.random.normal(jax.random.key(0), (2, 2, 20_000, 1))
    sigma = jnp.asarray([0.3, 0.9])
    noisy = transmit(z, sigma, Channel.PRESERVING, noise)
    found = reading.decoder_code(estimates, noisy, sigma)
    slopes = (z * noisy).sum((1, 2)) / jnp.square(noisy).sum((1, 2))  # of least squares
    np.testing.assert_allclose(found, slopes[:, None, None] * noisy, rtol=0.05)
    # Without a sigma it is noise_low, here 0.
    np.testing.assert_array_equal(reading.decoder_code(estimates, noisy), noisy)


class TestNoise:
    ids = [jnp.tile(jnp.asarray([[5, 6, 7, 8, 9, 10, 1, 0]], jnp.int32), (400, 1))]

    def test_tokens_are_masked_and_replaced_with_their_probabilities(self, ctx):
        train = dataclasses.replace(ctx, train=True)
        config = NoiseConfig(mask=0.2, replace=0.3)
        (made,) = noise.corrupted(self.ids, config, 29, train)
        words = np.asarray(made)[:, :6]
        np.testing.assert_array_equal(np.asarray(made)[:, 6:], [[1, 0]] * 400)
        assert (words == 2).mean() == pytest.approx(0.2 + 0.3 / 27, abs=0.03)
        assert (words != self.ids[0][:, :6]).mean() == pytest.approx(0.5 - 0.3 / 27, abs=0.03)
        assert words.min() >= 2 and words.max() < 29
        assert noise.corrupted(self.ids, config, 29, ctx) is self.ids
        assert noise.corrupted(self.ids, NoiseConfig(), 29, train) is self.ids

    def test_permuted_texts_keep_their_tokens_and_their_end(self, ctx):
        rows = [[5, 6, 7, 8, 9, 10, 11, 1], [5, 6, 7, 8, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]
        ids = np.repeat(np.asarray(rows, np.int32), 200, axis=0)
        train = dataclasses.replace(ctx, train=True)
        for config in (NoiseConfig(shuffle=1.0), NoiseConfig(swap=2), NoiseConfig(shuffle=0.5)):
            (made,) = noise.corrupted([jnp.asarray(ids)], config, 29, train)
            made = np.asarray(made)
            np.testing.assert_array_equal(np.sort(made), np.sort(ids))
            np.testing.assert_array_equal(made[ids < 2], ids[ids < 2])
            moved = np.abs(np.argsort(made[:200, :7]) - np.arange(7))
            assert moved.max() == (2 if config.swap else 6)
            changed = (made[:200] != ids[:200]).any(1).mean()
            assert changed == pytest.approx(0.5 if config.shuffle == 0.5 else 1, abs=0.15)
        first = np.asarray(noise.corrupted([jnp.asarray(ids)], NoiseConfig(shuffle=1.0), 29, train))
        counts = np.bincount(first[0, :200, 0], minlength=12)[5:]
        assert counts.min() > 10  # every token comes first in about 200 / 7 rows
        assert noise.corrupted(self.ids, config, 29, ctx) is self.ids

    def test_a_share_of_the_texts_is_corrupted_from_the_start_on(self, ctx):
        config = NoiseConfig(shuffle=1.0, mask=0.5, share=0.25, start=0.5)
        for step, share in ((4, 0.0), (5, 0.25)):
            at = dataclasses.replace(ctx, train=True, step=jnp.int32(step))
            (made,) = noise.corrupted(self.ids, config, 29, at, horizon=10)
            changed = (np.asarray(made) != np.asarray(self.ids[0])).any(1).mean()
            assert changed == pytest.approx(share, abs=0.08 * (share > 0))

    def test_word_dropout_keeps_the_start_id(self, ctx):
        train = dataclasses.replace(ctx, train=True)
        made = noise.decoder_inputs(self.ids, NoiseConfig(word_dropout=0.4), train)
        assert made is not None
        words = np.asarray(made[0])
        assert (words[:, 0] == 0).all()
        assert (words[:, 1:] == 2).mean() == pytest.approx(0.4, abs=0.03)
        assert noise.decoder_inputs(self.ids, NoiseConfig(word_dropout=0.4), ctx) is None

    def test_latent_dropout_applies_in_training_only(self, ctx):
        z = jnp.ones((100, 1, 50))
        train = dataclasses.replace(ctx, train=True)
        made = noise.dropped_latents(z, NoiseConfig(latent_dropout=0.5), train)
        assert float((made == 0).mean()) == pytest.approx(0.5, abs=0.03)
        assert float(made.max()) == 2
        assert noise.dropped_latents(z, NoiseConfig(latent_dropout=0.5), ctx) is z
