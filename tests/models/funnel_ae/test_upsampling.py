"""Upsamplers, skip schedules and the bottleneck, by exact values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.models.funnel_ae.latents import Bottleneck, LatentConfig, Moments
from flaxae.models.funnel_ae.skips import Skip, SkipConfig
from flaxae.models.funnel_ae.upsampling import Upsampler, Upsampling, haar
from flaxae.task import Context

CTX = Context(key=jax.random.key(0), step=jnp.int32(0), train=True)


def upsampled(kind, x):
    return Upsampler(kind, x.shape[-1], jnp.float32, rngs=nnx.Rngs(0))(x, CTX)


def test_a_haar_upsampler_keeps_the_pooled_states():
    x = jax.random.normal(jax.random.key(1), (2, 3, 6))
    up = upsampled(Upsampling.HAAR, x)
    pooled, detail = haar(up)
    np.testing.assert_allclose(pooled, x, atol=1e-6)
    assert float(jnp.abs(detail).max()) > 0.01


def test_haar_details_and_means_give_back_the_pairs():
    x = jax.random.normal(jax.random.key(1), (2, 6, 3))
    pooled, detail = haar(x)
    np.testing.assert_allclose(x[:, ::2], pooled - detail, atol=1e-6)
    np.testing.assert_allclose(x[:, 1::2], pooled + detail, atol=1e-6)


def test_repeat_and_interpolation_by_hand():
    x = jnp.asarray([[[0.0], [4.0], [8.0]]])
    np.testing.assert_array_equal(upsampled(Upsampling.REPEAT, x)[0, :, 0], [0, 0, 4, 4, 8, 8])
    np.testing.assert_array_equal(upsampled(Upsampling.INTERP, x)[0, :, 0], [0, 1, 3, 5, 7, 8])


@pytest.mark.parametrize("kind", [Upsampling.FF_SEP, Upsampling.LINEAR])
def test_other_upsamplers_make_two_different_states_of_each(kind):
    x = jax.random.normal(jax.random.key(1), (2, 3, 6))
    up = upsampled(kind, x)
    assert up.shape == (2, 6, 6)
    assert float(jnp.abs(up[:, ::2] - up[:, 1::2]).min()) > 1e-6
    # Each pair depends on its own state alone.
    other = upsampled(kind, x.at[:, 2].add(1.0))
    np.testing.assert_array_equal(up[:, :4], other[:, :4])


def test_skip_schedules_at_given_steps():
    linear = SkipConfig(kind=Skip.LINEAR, start=0.8, begin=100, finish_by=(200, 300))
    at = {
        step: [float(linear.weight(k, jnp.int32(step))) for k in (0, 1)] for step in (0, 150, 300)
    }
    np.testing.assert_allclose(
        [at[0], at[150], at[300]], [[0.8, 0.8], [0.4, 0.6], [0, 0]], atol=1e-6
    )
    sigmoid = SkipConfig(kind=Skip.SIGMOID, bias=(2.0, 0.0), slope=(0.1, 0.5))
    have = [float(sigmoid.weight(k, jnp.int32(20))) for k in (0, 1)]
    np.testing.assert_allclose(have, [0.5, 1 / (1 + np.exp(10))], rtol=1e-5)


def test_a_skip_mixes_in_training_and_is_0_in_an_evaluation():
    skip = SkipConfig(kind=Skip.LINEAR, start=0.25, begin=5, finish_by=(10,))
    h, e = jnp.full((1, 2, 3), 4.0), jnp.full((1, 2, 3), 8.0)
    np.testing.assert_allclose(skip.mix(h, e, 0, CTX), 5.0)
    np.testing.assert_array_equal(skip.mix(h, e, 0, dataclasses.replace(CTX, train=False)), h)


def test_random_codes_have_the_running_moments():
    moments = Moments((2, 3))
    rng = np.random.default_rng(0)
    for _ in range(3):
        z = rng.normal(2.0, 3.0, (500, 2, 3)).astype(np.float32)
        moments.update(jnp.asarray(z), jnp.asarray(np.arange(500) < 400, jnp.float32))
    np.testing.assert_allclose(moments.mean, 2.0, atol=0.5)
    np.testing.assert_allclose(moments.std, 3.0, atol=0.3)
    drawn = moments.draw(4000, CTX)
    np.testing.assert_allclose(drawn.mean(0), moments.mean, atol=0.2)
    np.testing.assert_allclose(drawn.std(0), moments.std, rtol=0.1)


def test_rows_that_pad_a_batch_are_in_no_moment():
    moments, z = Moments((1, 1)), jnp.asarray([[[1.0]], [[3.0]], [[100.0]]])
    moments.update(z, jnp.asarray([1.0, 1.0, 0.0]))
    np.testing.assert_allclose([moments.mean[0, 0], moments.std[0, 0]], [2.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        (SkipConfig(kind=Skip.LINEAR, begin=50, finish_by=(100, 50)), "ends before it begins"),
        (SkipConfig(kind=Skip.LINEAR, finish_by=(100,)), "must have 2 numbers"),
        (SkipConfig(kind=Skip.SIGMOID, bias=(1.0, 1.0)), "task.skip.slope"),
        (LatentConfig(kind=Bottleneck.MMD), "weight"),
        (LatentConfig(weight=1.0), "weight"),
        (LatentConfig(kind=Bottleneck.KL, weight=1.0, dim=0), "task.latent.dim"),
        (LatentConfig(block_dims=(4,)), "must have 2 numbers"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        options.check(3)
