"""Disentanglement of aligned, rotated and random codes; the factors of lines."""

import numpy as np
import pytest

from flaxae.measures.stats import Interval
from flaxae.models.t5_vae.evaluation import disentanglement as d
from flaxae.models.t5_vae.evaluation import factors as f
from flaxae.models.t5_vae.evaluation import readable

N, K = 1500, 4


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    return {f"f{k}": rng.integers(0, 3 + k, N) for k in range(K)}


@pytest.fixture(scope="module")
def aligned(factors):
    """Return codes with one dimension per factor, and two of noise."""
    rng = np.random.default_rng(1)
    table = np.stack(list(factors.values()), 1) / [3, 4, 5, 6] * 3
    return np.concatenate([table, np.zeros((N, 2))], 1) + rng.normal(0, 0.05, (N, K + 2))


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(2).normal(size=(N, K + 2))


def test_z_diff_is_high_for_aligned_codes_and_chance_for_noise(factors, aligned, noise):
    assert d.z_diff(aligned, factors, points=400).value > 0.98
    found = d.z_diff(noise, factors, points=400)
    assert found.low < 1 / K < found.high


def test_z_min_var_falls_with_rotation_and_is_chance_for_noise(factors, aligned, noise):
    assert d.z_min_var(aligned, factors, points=600).value > 0.98
    assert d.z_min_var(d.rotated(aligned, 3), factors, points=600).value < 0.95
    assert d.z_min_var(noise, factors, points=600).value == pytest.approx(1 / K, abs=0.08)


def test_mig_is_high_only_if_each_factor_has_one_dimension(factors, aligned, noise):
    assert d.mig(aligned, factors) > 0.95
    assert d.mig(d.rotated(aligned, 3), factors) < 0.3
    assert d.mig(noise, factors) < 0.02
    # With every factor in two dimensions the gap vanishes, but not the information.
    twice = np.concatenate([aligned, aligned], 1)
    assert d.mig(twice, factors) == pytest.approx(0, abs=1e-9)
    information, entropies = d.mutual_information(aligned, factors)
    np.testing.assert_allclose(np.diag(information[:K]), entropies, rtol=0.05)
    np.testing.assert_allclose(entropies, np.log([3, 4, 5, 6]), rtol=0.01)


def test_dci_of_aligned_rotated_and_random_codes(factors, aligned, noise):
    good, rotated, none = (
        d.dci(x, factors, trees=10) for x in (aligned, d.rotated(aligned, 3), noise)
    )
    assert min(good) > 0.95
    assert rotated.disentanglement < 0.6 and rotated.completeness < 0.6
    assert rotated.informativeness > 0.8
    assert max(none.disentanglement, none.completeness) < 0.1
    assert none.informativeness == pytest.approx(np.mean([1 / 3, 1 / 4, 1 / 5, 1 / 6]), abs=0.06)


def test_dci_of_known_importances():
    assert d.dci_of_importances(np.eye(3)) == pytest.approx((1, 1))
    assert d.dci_of_importances(np.ones((3, 3))) == pytest.approx((0, 0))
    # Two dimensions per factor: each dimension has one factor, each factor has two dimensions.
    spread = np.asarray([[1, 0], [1, 0], [0, 1], [0, 1.0]])
    assert d.dci_of_importances(spread) == pytest.approx((1, 0.5))


def test_all_measures_and_their_text(factors, aligned, monkeypatch):
    monkeypatch.setattr(d, "z_diff", lambda *_: Interval(0.5, 0.4, 0.6))
    found = d.measure(aligned, factors)
    rotated, codes = found["rotated"]["mig"], found["codes"]["mig"]
    assert rotated["low"] < rotated["value"] < rotated["high"] < 0.9
    assert 0.9 < codes["low"] <= codes["value"]
    assert found["factors"] == {"f0": 3, "f1": 4, "f2": 5, "f3": 6}
    text = "\n".join(readable._disentanglement(found))
    assert "chance of z-diff 0.25" in text and "z-diff 0.500 [0.400, 0.600]" in text


def test_rotation_keeps_inner_products(noise):
    rotated = d.rotated(noise)
    np.testing.assert_allclose(rotated @ rotated.T, noise @ noise.T, atol=1e-8)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("import os", "import"),
        ("from a import b", "import"),
        ("fromage = 1", "assignment"),
        ("# x = 1", "comment"),
        ('"""Doc.', "string"),
        ("r'x'", "string"),
        ("def f(x=1):", "definition"),
        ("@property", "definition"),
        ("return x == 1", "return"),
        ("elif x:", "branch"),
        ("with open(p) as f:", "loop"),
        ("x.y[0] = f(a=1)", "assignment"),
        ("total += 1", "assignment"),
        ("self.f(a=1)", "call"),
        ("x == 1", "other"),
        ("for x in y:", "loop"),
    ],
)
def test_kinds_of_line(line, kind):
    assert f.KINDS[f.kind(line)] == kind


def test_factors_of_lines():
    lines = ["f(a[{1}])", "x", "y = 'a'", "(((((", "return"]
    found = f.factors_of(lines, python=True)
    assert found["depth"].tolist() == [3, 0, 0, 3, 0]
    assert found["string"].tolist() == [0, 0, 1, 0, 0]
    assert found["number"].tolist() == [1, 0, 0, 0, 0]
    assert found["length"].tolist() == [3, 0, 2, 0, 1]
    plain = f.factors_of(["Is it so?", "Yes, it is.", "In Rome"], python=False)
    assert plain["question"].tolist() == [1, 0, 0] and plain["capital"].tolist() == [0, 0, 1]
    assert "number" not in plain  # it has a single value
