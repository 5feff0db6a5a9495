"""Gaussian and mixture priors: bijections, moments of samples, files, errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxae.errors import ConfigError
from flaxae.text_autoencoder.priors import GMMPrior, Prior, StandardNormal, fit, load_prior
from flaxae.text_autoencoder.priors.gaussian import shrunk_covariance
from tests.text_autoencoder.priors.planted import CENTRES, bumps


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """Return correlated codes whose mean is not 0."""
    rng = np.random.default_rng(0)
    mix = np.eye(6) + 0.2 * rng.normal(size=(6, 6))
    return (rng.normal(size=(3000, 6)) @ mix.T + np.arange(6)).astype(np.float32)


@pytest.fixture(scope="module")
def mixture() -> GMMPrior:
    return GMMPrior.fit(bumps(2000), components=4)


def test_gaussian_is_a_bijection_with_the_moments_of_the_codes(codes: np.ndarray) -> None:
    prior = fit("gaussian", codes)
    np.testing.assert_allclose(prior.from_noise(prior.to_noise(codes)), codes, atol=1e-4)
    noise = prior.to_noise(codes)
    np.testing.assert_allclose(noise.mean(0), np.zeros(6), atol=1e-3)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(6), atol=0.02)
    drawn = prior.sample(50_000, seed=1)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=0.1)
    scale = np.abs(np.cov(codes.T)).max()
    np.testing.assert_allclose(np.cov(drawn.T) / scale, np.cov(codes.T) / scale, atol=0.02)


def test_shrinkage_equals_scikit_learns_ledoit_wolf() -> None:
    from sklearn.covariance import ledoit_wolf

    few = np.random.default_rng(0).normal(size=(20, 12)) * np.arange(1, 13)
    theirs, share = ledoit_wolf(few)
    assert 0.05 < share < 0.95
    np.testing.assert_allclose(shrunk_covariance(few - few.mean(0)), theirs, rtol=1e-6)


def test_gaussian_fits_fewer_codes_than_dimensions() -> None:
    few = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    few[:, 3] = 7.0  # a constant dimension
    prior = fit("gaussian", few)
    np.testing.assert_allclose(prior.from_noise(prior.to_noise(few)), few, atol=1e-3)


def test_mixture_finds_the_planted_bumps_and_is_inverted_by_component(
    mixture: GMMPrior,
) -> None:
    found = np.asarray(sorted(mixture.means.round(1).tolist()))
    np.testing.assert_allclose(found, sorted(CENTRES.tolist()), atol=0.11)
    held_out = bumps(300, seed=5)
    component = mixture.component(held_out)
    nearest = np.square(held_out[:, None] - mixture.means[None]).sum(-1).argmin(1)
    np.testing.assert_array_equal(component, nearest)
    noise = mixture.to_noise(held_out)
    np.testing.assert_allclose(mixture.from_noise(noise, component), held_out, atol=1e-5)
    np.testing.assert_allclose(noise.std(0), np.ones(2), atol=0.15)


def test_samples_of_the_mixture_come_from_all_components(mixture: GMMPrior) -> None:
    drawn = mixture.sample(4000, seed=3)
    shares = np.bincount(mixture.component(drawn), minlength=4) / 4000
    np.testing.assert_allclose(shares, mixture.weights, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(bumps(4000).T), atol=0.15)
    # The code of a row of noise does not depend on other rows.
    noise = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    np.testing.assert_array_equal(mixture.from_noise(noise)[3:], mixture.from_noise(noise[3:]))


@pytest.mark.parametrize("full", [True, False])
def test_narrow_component_is_responsible_only_for_close_codes(full: bool) -> None:
    spreads = np.asarray([[0.1, 0.1], [2.0, 2.0]])
    factors = np.stack([np.diag(s) for s in spreads]) if full else spreads
    prior = GMMPrior([0.5, 0.5], np.zeros((2, 2)), factors)
    np.testing.assert_array_equal(prior.component([[0.05, 0.0], [1.0, 1.0]]), [0, 1])
    np.testing.assert_allclose(prior.to_noise([[0.05, 0.0], [1.0, 1.0]]), [[0.5, 0], [0.5, 0.5]])


def test_covariances_are_full_only_with_enough_codes(codes: np.ndarray) -> None:
    assert GMMPrior.fit(codes, components=3).factors.shape == (3, 6, 6)
    assert GMMPrior.fit(codes[:100], components=3).factors.shape == (3, 6)


@pytest.mark.parametrize("kind", ["normal", "gaussian", "gmm"])
def test_paths_include_both_ends_and_do_not_jump(kind: str, mixture: GMMPrior) -> None:
    known: dict[str, Prior] = {"normal": StandardNormal(2, 0.9), "gmm": mixture}
    prior = known.get(kind) or fit(kind, bumps(500))
    a, b = np.asarray([2.1, 0.1], np.float32), np.asarray([-0.1, 1.1], np.float32)
    path = prior.interpolate(a, b, 41)
    assert path.shape == (41, 2)
    np.testing.assert_allclose(path[[0, -1]], [a, b], atol=1e-5)
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 0.3
    both = prior.interpolate(np.stack([b, a]), np.stack([a, b]), 41)
    np.testing.assert_allclose(both[1], path, atol=1e-5)


def test_temperature_and_seed(codes: np.ndarray) -> None:
    prior = fit("gaussian", codes)
    np.testing.assert_array_equal(prior.sample(4, seed=2), prior.sample(4, seed=2))
    cold = prior.sample(3, temperature=0.0)
    np.testing.assert_allclose(cold, np.tile(codes.mean(0), (3, 1)), atol=1e-4)
    np.testing.assert_allclose(StandardNormal(6, 0.5).sample(20_000).std(), 0.5, atol=0.01)


@pytest.mark.parametrize("kind", ["normal", "gaussian", "gmm"])
def test_saved_prior_is_loaded_bit_for_bit(kind: str, mixture: GMMPrior, tmp_path: Path) -> None:
    known: dict[str, Prior] = {"normal": StandardNormal(2, 0.9), "gmm": mixture}
    prior = known.get(kind) or fit(kind, bumps(500))
    prior.save(tmp_path / "p")
    again = load_prior(tmp_path / "p")
    assert type(again) is type(prior) and again.dim == 2
    np.testing.assert_array_equal(again.sample(50), prior.sample(50))
    np.testing.assert_array_equal(again.to_noise(bumps(9)), prior.to_noise(bumps(9)))


def test_several_latents_are_flattened(codes: np.ndarray) -> None:
    prior = fit("gaussian", codes.reshape(-1, 2, 3))
    np.testing.assert_array_equal(
        prior.to_noise(codes[:4].reshape(4, 2, 3)), prior.to_noise(codes[:4])
    )


def test_mistakes_raise_one_clear_error(codes: np.ndarray, tmp_path: Path) -> None:
    prior = fit("gaussian", codes)
    wrong: list[tuple[Any, str]] = [
        (lambda: prior.to_noise(codes[:, :5]), r"\(n, 6\)"),
        (lambda: prior.from_noise(codes[0]), r"\(n, 6\)"),
        (lambda: fit("gaussian", np.ones((9, 3))), "collapsed"),
        (lambda: fit("gaussian", codes[:1]), "two or more"),
        (lambda: fit("gaussian", codes * np.nan), "finite"),
        (lambda: fit("gmm", codes[:4]), "too few"),
        (lambda: fit("gmm", bumps(19)), "19 codes are too few for a mixture of 10.*at least 20"),
        (lambda: fit("flow", codes), "flow_prior"),
        (lambda: load_prior(tmp_path / "none"), "contains no prior"),
    ]
    for call, message in wrong:
        with pytest.raises(ConfigError, match=message):
            call()
    prior.save(tmp_path)
    for about, message in (
        ([], "not a JSON object, but a list"),
        ({"kind": ["gmm"]}, r'prior.json: kind=\["gmm"\] is a list, not a string'),
        ({"kind": "flow", "dim": "4"}, 'prior.json: dim="4" is a string, not an integer'),
        ({"kind": "gmm"}, "incomplete"),
        ({"kind": "x"}, "unknown kind"),
    ):
        (tmp_path / "prior.json").write_text(json.dumps(about))
        with pytest.raises(ConfigError, match=message):
            load_prior(tmp_path)
    (tmp_path / "prior.safetensors").write_bytes(b"cut off")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prior(tmp_path)
