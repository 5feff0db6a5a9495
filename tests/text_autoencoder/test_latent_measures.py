"""Measures of known codes: draws of the prior, collapsed, shifted, and of low rank."""

import warnings

import numpy as np
import pytest

from flaxae.text_autoencoder import latent_measures as m

N, D = 300, 8


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(0).normal(size=(N, D))


def test_mmd_distinguishes_the_prior_from_collapsed_and_shifted_codes(normal):
    null = m.mmd_null_p95(N, D, draws=50)
    good = m.mmd_test(normal, permutations=200, draws=100)
    bad = m.mmd_test(np.zeros((N, D)), permutations=200, draws=100)
    shifted = m.mmd_test(normal + 0.3, permutations=200, draws=100)
    assert good["value"] < 2 * null < 50 * null < bad["value"]
    assert good["p"] > 0.05 and bad["p"] == shifted["p"] == pytest.approx(1 / 201)
    for found in (good, shifted):
        assert found["low"] < found["value"] < found["high"]


def test_mmd_equals_the_loss(normal):
    import jax.numpy as jnp

    from flaxae.losses import mmd

    draws = np.random.default_rng((0, 1)).normal(size=(N, D))
    expected = mmd(jnp.asarray(normal + 0.5, jnp.float32), jnp.asarray(draws, jnp.float32))
    found = m.mmd_test(normal + 0.5, permutations=2, draws=2)["value"]
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_spectrum_and_isotropy_of_known_codes(normal):
    scales = np.asarray([3, 2, 1, 0, 0, 0, 0, 0.0])
    np.testing.assert_allclose(m.spectrum(normal * scales)[:4], [9, 4, 1, 0], atol=1.5)
    even = m.isotropy(normal)
    assert 7.5 < even["effective_rank"] <= 8 and 7.5 < even["participation_ratio"] <= 8
    assert abs(even["mean_cosine"]) < 0.01
    line = m.isotropy(normal[:, :1] * np.ones(D))
    assert line["effective_rank"] == pytest.approx(1) == line["participation_ratio"]
    cone = m.isotropy(normal + 10)
    assert cone["mean_cosine"] > 0.95
    constant = m.isotropy(np.ones((5, D)))
    assert constant["effective_rank"] == 0 and constant["mean_cosine"] == pytest.approx(1)


@pytest.mark.parametrize("rank", [1, 7, 50])
def test_isotropic_gaussian_has_as_many_principal_dimensions_as_its_rank(rank):
    rng = np.random.default_rng(rank)
    axes, _ = np.linalg.qr(rng.normal(size=(64, rank)))
    found = m.principal_dimensions(rng.normal(size=(4000, rank)) @ axes.T + 3)
    assert found["components_99"] == rank
    assert found["participation_ratio"] == pytest.approx(rank, rel=0.05)
    assert found["components_90"] == pytest.approx(np.ceil(0.9 * rank), abs=2)


def test_principal_dimensions_of_constant_states_and_of_one_state():
    assert set(m.principal_dimensions(np.ones((5, 3))).values()) == {0.0}
    assert np.isnan(list(m.principal_dimensions(np.ones((1, 3))).values())).all()


def test_mean_cosine_of_three_codes():
    found = m.isotropy(np.asarray([[1, 0], [0, 2], [-3.0, 0]]))["mean_cosine"]
    assert found == pytest.approx((0 - 1 + 0) / 3)


def test_gaussianity_of_normal_skewed_and_flat_codes():
    rng = np.random.default_rng(1)
    good = m.gaussianity(rng.normal(size=(4000, D)))
    assert good["skew"] < 0.1 and good["excess_kurtosis"] < 0.2
    norm = m.squared_norm_over_dim(rng.normal(size=(4000, D)))
    assert norm.value == pytest.approx(1, abs=0.03) and norm.low < norm.value < norm.high
    assert good["squared_norm_std"] == pytest.approx((2 / D) ** 0.5, rel=0.1)
    skewed = m.gaussianity(rng.exponential(size=(4000, D)) - 1)
    assert skewed["skew"] == pytest.approx(2, abs=0.4)
    flat = m.gaussianity(rng.uniform(-1, 1, size=(4000, D)))
    assert flat["excess_kurtosis"] == pytest.approx(1.2, abs=0.1)
    assert np.isnan(m.gaussianity(np.ones((9, D)))["skew"])


def test_shape_intervals_cover_the_values_of_other_draws():
    rng, names = np.random.default_rng(5), ("effective_rank", "skew", "squared_norm_std")
    draws = [rng.normal(size=(400, D)) * [3, 2, 1, 1, 1, 1, 0.5, 0.001] for _ in range(60)]
    values = [m.isotropy(x) | m.gaussianity(x) for x in draws]
    typical = {name: np.median([v[name] for v in values]) for name in names}
    found = [m.shape_intervals(x) for x in draws]
    for name in names:
        covers = [x[name][0] < typical[name] < x[name][1] for x in found]
        assert 0.85 <= np.mean(covers), name
        spread = 4 * np.std([v[name] for v in values])
        assert np.mean([x[name][1] - x[name][0] for x in found]) == pytest.approx(spread, rel=0.5)
    assert all(x["active_units"] == [7, 7] for x in found)


def test_active_units_of_known_codes():
    codes = np.random.default_rng(2).normal(size=(500, 4)) * [1, 0.3, 0.05, 0]
    assert m.active_units(codes) == 2


def test_log_density_equals_the_formula():
    rng = np.random.default_rng(3)
    z, means, log_variances = rng.normal(size=(3, 5, 4))
    found = m.log_density(z, means, log_variances)
    difference = z[:, None] - means  # (n, m, d)
    expected = -0.5 * (
        difference**2 / np.exp(log_variances) + log_variances + np.log(2 * np.pi)
    ).sum(2)
    np.testing.assert_allclose(found, expected)


def test_information_of_a_gaussian_channel():
    """For z = x + noise, x ~ N(0, .75), noise ~ N(0, .25): I = log(4) / 2 and q(z) is the prior."""
    rng = np.random.default_rng(4)
    means = np.sqrt(0.75) * rng.normal(size=(3000, 1))
    found = m.information(means, np.full((3000, 1), np.log(0.25)))
    assert found["mutual_information"]["value"] == pytest.approx(np.log(4) / 2, abs=0.03)
    assert found["kl"]["value"] == pytest.approx(np.log(4) / 2, abs=0.03)
    assert abs(found["kl_to_prior"]) < 0.02 and len(found["kl_per_dim"]) == 1
    assert found["mutual_information"]["low"] < np.log(4) / 2 < found["mutual_information"]["high"]


def test_information_of_collapsed_and_of_separate_posteriors():
    collapsed = m.information(np.zeros((200, 3)), np.zeros((200, 3)))
    assert collapsed["kl"]["value"] == 0 == pytest.approx(collapsed["mutual_information"]["value"])
    apart = np.arange(200.0)[:, None] * 10
    perfect = m.information(apart, np.full((200, 1), -2.0))["mutual_information"]
    assert perfect["value"] == pytest.approx(np.log(200)) == perfect["cap"]


def test_effective_rank_and_participation_ratio_by_hand():
    """Codes of variances 9, 4 and 1: shares 9/14, 4/14 and 1/14."""
    axes = np.asarray([3.0, 2, 1]) * np.sqrt(5 / 2)
    codes = np.concatenate([np.diag(axes), -np.diag(axes)])  # six codes of mean 0
    np.testing.assert_allclose(m.spectrum(codes), [9, 4, 1])
    entropy = 9 / 14 * np.log(14 / 9) + 4 / 14 * np.log(14 / 4) + 1 / 14 * np.log(14)
    found = m.isotropy(codes)
    assert found["effective_rank"] == pytest.approx(np.exp(entropy))
    assert found["participation_ratio"] == pytest.approx(14**2 / (81 + 16 + 1))


@pytest.mark.parametrize("n", [0, 1])
def test_measures_of_a_distribution_need_two_codes(n):
    codes = np.ones((n, 3))
    values = [m.mmd_test(codes), m.isotropy(codes), m.gaussianity(codes)]
    values += [{"null": m.mmd_null_p95(n, 3), "active": m.active_units(codes)}]
    assert all(np.isnan(x) for found in values for x in found.values())
    assert np.isnan(m.spectrum(codes)).all() and m.spectrum(codes).shape == (3,)


def test_two_codes_have_measures_without_intervals():
    codes = np.asarray([[0.0, 1, 2], [2, 1, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = m.shape_intervals(codes)
        test = m.mmd_test(codes, permutations=20, draws=20)
    assert np.isnan(list(found.values())).all()
    assert m.isotropy(codes)["effective_rank"] == pytest.approx(1)
    assert 0 < test["p"] <= 1 and np.isfinite(test["value"])
