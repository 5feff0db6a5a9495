"""Measures on the device: equal to scikit-learn's, with ties, weights and missing classes."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from flaxae.models.probes import metrics
from flaxae.models.probes.answers import Answers, answer_measures, known_of
from flaxae.models.probes.fitting.base import log_odds, sigmoid

rng = np.random.default_rng(0)
N = 3000
SCORES = np.round(rng.normal(size=N), 1).astype(np.float32)  # many ties
LABELS = rng.random(N) < 0.3
WEIGHTS = rng.integers(0, 4, N)


def test_auroc_equals_scikit_learn_with_ties_and_weights():
    assert metrics.auroc_of(SCORES, LABELS) == pytest.approx(
        roc_auc_score(LABELS, SCORES), abs=1e-6
    )
    got = float(metrics._auroc(SCORES, LABELS, WEIGHTS))
    repeated = np.repeat(np.arange(N), WEIGHTS)
    assert got == pytest.approx(roc_auc_score(LABELS[repeated], SCORES[repeated]), abs=1e-6)
    masked = np.where(np.arange(N) < 50, 0, 1)
    got = float(metrics._auroc(np.where(masked, SCORES, 9e9), LABELS, masked))
    assert got == pytest.approx(roc_auc_score(LABELS[50:], SCORES[50:]), abs=1e-6)
    assert metrics.auroc_of([1.0] * 4, [0, 1, 0, 1]) == 0.5
    assert np.isnan(metrics.auroc_of([1.0, 2.0], [1, 1]))


def test_intervals_of_one_program_equal_host_measures():
    groups = np.arange(N) // 2
    found = metrics.intervals(SCORES, LABELS, groups, threshold=0.5, draws=40)
    assert found["auroc"].value == pytest.approx(roc_auc_score(LABELS, SCORES), abs=1e-6)
    given = SCORES > 0
    assert found["acc"].value == pytest.approx((given == LABELS).mean(), abs=1e-6)
    assert found["bal_acc"].value == pytest.approx(balanced_accuracy_score(LABELS, given), abs=1e-6)
    assert found["recall"].value == pytest.approx((SCORES > 0.5)[LABELS].mean(), abs=1e-6)
    for name, interval in found.items():
        assert interval.low < interval.value < interval.high, name
        assert interval.high - interval.low < 0.15
    # The same order and threshold in steps that float32 cannot resolve.
    tiny = 40 + SCORES.astype(np.float64) * 1e-9
    same = metrics.intervals(tiny, LABELS, groups, threshold=40 + 0.5e-9, draws=40)
    assert same["auroc"] == found["auroc"] and same["recall"] == found["recall"]


def test_groups_are_resampled_as_a_whole():
    one, twice = (metrics.group_weights(np.r_[tuple([range(9)] * n)], 20) for n in (1, 2))
    assert (one[0] == 1).all() and (one.sum(1) == 9).all() and one[1:].std() > 0
    np.testing.assert_array_equal(np.concatenate([one, one], axis=1), twice)


def test_certain_answers_do_not_become_ties():
    odds = np.asarray([20.0, 30.0, 25.0, 35.0])  # float32 has one probability for all of them
    assert len(np.unique(np.float32(sigmoid(odds)))) == 1
    labels = np.asarray([0, 1, 0, 1])
    assert metrics.auroc_of(odds, labels) == metrics.auroc_of(sigmoid(odds), labels) == 1.0
    np.testing.assert_allclose(log_odds(sigmoid(-odds)), -odds, rtol=1e-12)


@pytest.mark.parametrize("count", [5, 100, 999])
def test_the_threshold_of_control_rows_lets_one_percent_through(count):
    scores = rng.normal(size=count)
    threshold = metrics.control_threshold(scores)
    above = (scores > threshold).sum()
    assert above == int(0.01 * count)
    with pytest.raises(ValueError, match="needs control rows"):
        metrics.control_threshold([])


def test_answers_of_truth_and_lie_prompts():
    label = np.asarray([1, 1, 0, 0, 1, 1])
    lie = np.asarray([0, 1, 0, 1, 0, 1])
    base = Answers(np.asarray([0.9, 0.8, 0.7, 0.2, 0.6, 0.9]), np.full(6, 0.5), label, lie)
    known = known_of(base)
    assert known.tolist() == [True, True, False, False, True, True]
    assert known_of(base, 0.75).tolist() == [True, True, True, True, False, False]
    adapter = base._replace(p=np.asarray([0.9, 0.1, 0.2, 0.9, 0.6, 0.9]))
    found = answer_measures(adapter, known)
    assert found["truth_acc"] == 1 and found["lie_acc"] == pytest.approx(2 / 3)
    assert found["known_lie_acc"] == 0.5 and found["choice_cov"] == 0.5
    assert found["balance"] == pytest.approx(4 / 6)
