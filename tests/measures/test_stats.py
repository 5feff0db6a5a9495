"""Intervals, AUROC and permutation tests on cases with known answers."""

import numpy as np
import pytest

from flaxae.measures import stats


def test_bootstrap_interval_of_a_mean_is_close_to_the_normal_interval():
    rows = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    found = stats.bootstrap(rows, draws=4000)
    half = 1.96 * rows.std() / np.sqrt(len(rows))
    assert found.value == pytest.approx(rows.mean())
    assert found.low == pytest.approx(rows.mean() - half, abs=0.01)
    assert found.high == pytest.approx(rows.mean() + half, abs=0.01)
    assert found == stats.bootstrap(rows, draws=4000)  # seeded
    assert found != stats.bootstrap(rows, draws=4000, seed=1)


def test_bootstrap_intervals_have_the_nominal_coverage():
    rng = np.random.default_rng(1)
    found = [stats.bootstrap(rng.random(60) < 0.3, draws=300) for _ in range(300)]
    covered = np.mean([x.low <= 0.3 <= x.high for x in found])
    assert 0.9 < covered < 0.98


def test_bootstrap_of_constant_and_of_no_rows():
    found = stats.bootstrap(np.full(50, 0.25))
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    assert np.isnan(stats.bootstrap(np.zeros(0)).value)
    assert str(found) == "0.250 [0.250, 0.250]"
    assert found.as_dict() == {"value": 0.25, "low": 0.25, "high": 0.25}


def test_bootstrap_applies_the_statistic_to_sums_of_all_rows():
    rows = np.asarray([[1, 1], [0, 9]])
    assert stats.bootstrap(rows).value == 0.1
    perplexity = stats.bootstrap(rows, lambda s: np.exp(stats.ratio(s)))
    assert perplexity.value == pytest.approx(np.exp(0.1))
    assert perplexity.high == pytest.approx(np.exp(1.0))  # the first row twice


def test_blocks_of_resamples_differ(monkeypatch):
    rows = np.arange(40.0)[:, None]
    monkeypatch.setattr(stats, "_BLOCK_SIZE", 40 * 7)
    sums = stats.resampled_sums(rows, draws=50)
    assert sums.shape == (50, 1) and len(np.unique(sums)) > 40
    assert stats.resample_counts(5, 3).sum(1).tolist() == [5, 5, 5]


def test_paired_difference_is_narrower_than_separate_intervals():
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 5, 500)
    a, b = hard + 0.2 + rng.normal(0, 0.1, 500), hard
    found = stats.paired_difference(a, b)
    assert found.value == pytest.approx(0.2, abs=0.02)
    assert 0.15 < found.low < found.high < 0.25
    assert stats.bootstrap(a).low < stats.bootstrap(b).value
    with pytest.raises(ValueError, match="one shape"):
        stats.paired_difference(a, b[:-1])


def test_bootstrap_indices_takes_any_statistic():
    values = np.random.default_rng(3).normal(size=400)
    found = stats.bootstrap_indices(400, lambda i: float(np.median(values[i])))
    assert found.low < found.value == np.median(values) < found.high


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([1, 1, 1, 1], [0, 1, 0, 1], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),  # 3.5 of 4 pairs
    ],
)
def test_auroc_of_small_cases(scores, labels, expected):
    assert stats.auroc(scores, labels) == expected


def test_auroc_equals_the_share_of_ordered_pairs():
    rng = np.random.default_rng(4)
    scores, labels = rng.integers(0, 9, 80), rng.random(80) < 0.4
    pairs = scores[labels][:, None] - scores[~labels]
    assert stats.auroc(scores, labels) == pytest.approx(np.mean((np.sign(pairs) + 1) / 2))
    found = stats.auroc_interval(scores + 3 * labels, labels, draws=200)
    assert 0.5 < found.low < found.value < found.high < 1
    with pytest.raises(ValueError, match="positive and negative examples"):
        stats.auroc([1, 2], [1, 1])


def test_permutation_p_values_are_uniform_under_the_null_and_small_otherwise():
    rng = np.random.default_rng(5)
    null = [stats.permutation_test(*rng.normal(size=(2, 15)), draws=199) for _ in range(300)]
    assert 0.02 < np.mean(np.asarray(null) <= 0.05) < 0.09
    assert np.mean(null) == pytest.approx(0.5, abs=0.06)
    assert stats.permutation_test(rng.normal(2, 1, 30), rng.normal(0, 1, 20)) < 0.001
    assert stats.permutation_test([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_permutation_and_sign_flip_tests_of_small_cases():
    # 2 of the 20 ways to choose three of six rows give as large a difference: p = .1.
    found = stats.permutation_test([10, 11, 12], [1, 2, 3], draws=20000)
    assert found == pytest.approx(0.1, abs=0.01)
    # 2 of the 8 sign patterns of three differences give as large a mean.
    assert stats.sign_flip_test([1, 2, 3], draws=20000) == pytest.approx(0.25, abs=0.01)
    assert stats.sign_flip_test(np.full(30, 0.5)) < 0.001
    assert stats.p_value(3.0, np.asarray([1.0, 2.0])) == pytest.approx(1 / 3)


def test_jackknife_of_a_mean_equals_the_t_interval():
    rows = np.random.default_rng(2).normal(size=(40, 2))
    found = stats.jackknife(lambda x: {"mean": x[:, 0].mean(), "spread": x.std()}, rows, groups=40)
    mean = stats.t_interval(rows[:, 0])
    assert found["mean"].low == pytest.approx(mean.low)
    assert found["mean"].high == pytest.approx(mean.high)
    assert found["spread"].low < rows.std() < found["spread"].high
    single = stats.jackknife(lambda x: {"mean": x.mean()}, np.ones(1))["mean"]
    assert single.value == 1 and np.isnan(single.low)


def test_jackknife_intervals_have_the_nominal_coverage():
    rng = np.random.default_rng(3)
    found = [
        stats.jackknife(lambda x: {"std": x.std(ddof=1)}, rng.normal(size=200))["std"]
        for _ in range(300)
    ]
    assert 0.9 < np.mean([x.low < 1 < x.high for x in found]) < 0.98


def test_t_interval_of_a_small_case_and_its_coverage():
    found = stats.t_interval([1.0, 2.0, 3.0])
    assert found.value == 2.0  # the t quantile of two degrees of freedom is 4.302653
    assert found.high - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert found.low == pytest.approx(4.0 - found.high)
    assert np.isnan(stats.t_interval([5.0]).low) and stats.t_interval([5.0]).value == 5.0
    rows = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 3))
    covers = [(x := stats.t_interval(row)).low < 3.0 < x.high for row in rows]
    assert np.mean(covers) == pytest.approx(0.95, abs=0.015)


def test_one_row_has_no_interval():
    """All resamples of one row are equal: an interval of width 0 would claim certainty."""
    rows = [stats.bootstrap([3.0]), stats.bootstrap_indices(1, lambda i: 3.0)]
    rows += [stats.t_interval([3.0]), stats.paired_difference([5.0], [2.0])]
    rows.append(stats.jackknife(lambda x: {"mean": x.mean()}, [3.0])["mean"])
    for found in rows:
        assert found.value == 3 and np.isnan([found.low, found.high]).all()
    for found in (stats.bootstrap([]), stats.t_interval([])):
        assert np.isnan([found.value, found.low, found.high]).all()
    found = stats.auroc_interval([1, 2, 3], [0, 0, 1])
    assert found.value == 1 and np.isnan([found.low, found.high]).all()


def test_an_undefined_value_is_not_significant():
    assert np.isnan(stats.p_value(np.nan, [1.0, 2.0])) and np.isnan(stats.p_value(1.0, []))
    assert stats.p_value(2.0, [1.0, np.nan, 3.0]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="both samples"):
        stats.permutation_test([], [1.0])
    with pytest.raises(ValueError, match="at least one difference"):
        stats.sign_flip_test([])
    with pytest.raises(ValueError, match="at least one row"):
        stats.bootstrap_indices(0, len)


def test_numbers_that_are_not_finite_become_none():
    tree = {"a": [np.nan, 1, True, "x", None], "b": np.float32(2)}
    assert stats.finite(tree) == {"a": [None, 1, True, "x", None], "b": 2.0}
