"""The autoregressive prior on a chain of Gaussians, whose density is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.task import Context
from flaxae.text_autoencoder.priors import AutoregressivePrior, GaussianPrior, load_prior
from flaxae.text_autoencoder.priors.autoregressive_modeling import LatentTransformer

L, Z, A, STD = 5, 2, 0.8, 0.6
CTX = Context(key=jax.random.key(0), step=jnp.int32(0))


def chain(n: int, seed: int = 0) -> np.ndarray:
    """Return z_1 ~ N(0, STD^2 I) and z_l = A z_(l-1) + STD noise, (n, L, Z)."""
    noise = STD * np.random.default_rng(seed).normal(size=(n, L, Z))
    out = noise.copy()
    for i in range(1, L):
        out[:, i] += A * out[:, i - 1]
    return out.astype(np.float32)


def log_density(z: np.ndarray) -> np.ndarray:
    """Return the log density of the chain in closed form."""
    before = np.pad(z[:, :-1], ((0, 0), (1, 0), (0, 0)))
    squared = np.square((z - A * before) / STD).sum((1, 2))
    return -0.5 * squared - L * Z * np.log(STD * np.sqrt(2 * np.pi))


def untrained(components: int) -> LatentTransformer:
    return LatentTransformer(L, Z, 8, 1, 2, components, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def planted() -> AutoregressivePrior:
    """Return the chain as parameters, in a space of twice the scale around 1."""
    model: Any = untrained(1)
    model.follow.kernel[...] = A * jnp.eye(Z)
    bias = np.zeros(1 + 2 * Z, np.float32)
    bias[1 + Z :] = np.log(STD)
    model.write.bias[...] = jnp.asarray(bias)
    return AutoregressivePrior(model, GaussianPrior(np.ones(L * Z), 2 * np.eye(L * Z)))


def test_density_of_a_planted_chain_is_that_of_the_closed_form(planted) -> None:
    z = chain(70)
    codes = 1 + 2 * z.reshape(70, -1)
    expected = log_density(z) - L * Z * np.log(2)
    np.testing.assert_allclose(planted.log_density(codes), expected, rtol=1e-4)


def test_samples_of_a_planted_chain_have_its_moments(planted) -> None:
    drawn = (planted.sample(4000, seed=1).reshape(4000, L, Z) - 1) / 2
    real = chain(4000, seed=2)
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.07)
    np.testing.assert_allclose(drawn.std(0), real.std(0), rtol=0.06)
    steps = drawn[:, 1:] - A * drawn[:, :-1]
    assert abs(np.mean(steps * drawn[:, :-1])) < 0.02 and steps.std() == pytest.approx(
        STD, abs=0.02
    )


def test_codes_and_noise_are_inverse_given_the_components(planted) -> None:
    mixture = AutoregressivePrior(untrained(4), planted.base)
    for prior in (planted, mixture):
        codes = prior.sample(9, seed=3)
        noise = prior.to_noise(codes)
        back = prior.from_noise(noise, prior.component(codes))
        np.testing.assert_allclose(back, codes, atol=1e-4)
        path = prior.interpolate(codes[0], codes[1], 21)
        np.testing.assert_allclose(path[[0, -1]], codes[:2], atol=1e-3)
        assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 0.3 * np.linalg.norm(
            codes[0] - codes[1]
        )
    np.testing.assert_array_equal(mixture.from_noise(noise)[4:], mixture.from_noise(noise[4:]))


def test_each_component_is_drawn_with_its_probability(planted) -> None:
    model: Any = untrained(3)
    model.centres[...] = jnp.full((3, Z), 20.0) * jnp.arange(3.0)[:, None]  # far from each other
    weights = np.asarray([0.6, 0.3, 0.1])
    model.write.bias[...] = model.write.bias[...].at[:3].set(np.log(weights))
    prior = AutoregressivePrior(model, planted.base)
    component = prior.component(prior.sample(900, seed=1))
    for latent in component.T:
        np.testing.assert_allclose(np.bincount(latent, minlength=3) / 900, weights, atol=0.05)
    assert not prior.component(prior.sample(3, temperature=0)).any()  # the likeliest one


def test_a_latent_does_not_depend_on_itself_or_on_later_ones() -> None:
    graphdef, state = nnx.split(untrained(3))
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), state)
    model = nnx.merge(graphdef, state)
    z = np.repeat(chain(1), L + 1, axis=0)
    z[np.arange(L), np.arange(L)] += 1  # row i has another latent i, the last row none
    found = jax.jit(lambda z: model(z, CTX))(z)
    outputs = np.concatenate([found.log_weights[..., None], found.means], -1)
    depends = np.abs(outputs[:L] - outputs[L:]).max((2, 3)) > 1e-6  # (changed latent, output)
    np.testing.assert_array_equal(depends, np.triu(np.ones((L, L), bool), 1))


def test_a_mixture_sums_its_components() -> None:
    prior = AutoregressivePrior(untrained(3), GaussianPrior(np.zeros(L * Z), np.eye(L * Z)))
    model = nnx.merge(prior.graphdef, prior.state)
    z = chain(6)
    centres = np.asarray(model.centres[...])  # equal weights, unit variances
    squared = np.square(z[:, :, None] - centres).sum(-1)
    each = np.log(np.exp(-0.5 * squared).mean(-1)) - np.log(2 * np.pi) * Z / 2
    np.testing.assert_allclose(prior.log_density(z.reshape(6, -1)), each.sum(1), rtol=1e-4)


def test_a_saved_prior_is_loaded_bit_for_bit(planted, tmp_path) -> None:
    planted.save(tmp_path)
    again = load_prior(tmp_path)
    assert isinstance(again, AutoregressivePrior)
    codes = planted.sample(5)
    np.testing.assert_array_equal(again.sample(5), codes)
    np.testing.assert_array_equal(again.log_density(codes), planted.log_density(codes))
    text = (tmp_path / "prior.json").read_text().replace('"components": 1', '"components": 2')
    (tmp_path / "prior.json").write_text(text)
    with pytest.raises(ConfigError, match="sizes"):
        load_prior(tmp_path)
