"""Each probe against scikit-learn or a short reference, on problems with a known answer."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from flaxae.errors import ConfigError
from flaxae.models.probes.fitting import conformal, networks
from flaxae.models.probes.fitting.base import Probe, Scaler, train_sign
from flaxae.models.probes.fitting.ccs import CCS
from flaxae.models.probes.fitting.linear import TTPD, MassMean, best_layer, fit_layers
from flaxae.models.probes.fitting.networks import MLP, LayerConv
from flaxae.models.probes.fitting.ranking import Dummy, Ranking, decode_truth, truthfulness
from flaxae.models.probes.metrics import auroc_of

rng = np.random.default_rng(0)
N, D = 120, 6
LABELS = rng.random(N) < 0.4
X = (rng.normal(size=(N, D)) * [1, 5, 0.1, 1, 1, 2] + 3).astype(np.float32)
X[:, 0] += 1.5 * LABELS


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def same_after_a_file(probe, x):
    again = type(probe).from_tensors(probe.tensors())
    np.testing.assert_array_equal(again.scores(x), probe.scores(x))
    assert isinstance(probe, Probe)
    p = probe.predict_proba(x)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    assert ((p[:, 1] > 0.5) == (probe.scores(x) > 0)).all()


SCALED = StandardScaler().fit_transform(X)
LAYERS = np.stack([rng.normal(size=X.shape).astype(np.float32), X])
STRENGTHS = (10.0, 100.0)


def scikit(inputs, strength):
    return LogisticRegression(C=1 / strength, tol=1e-8, max_iter=2000).fit(inputs, LABELS)


def test_all_layers_and_penalties_are_one_fit_that_equals_scikit_learn():
    probes = fit_layers(LAYERS, LABELS, STRENGTHS)
    for probe, strength in zip(probes[1], STRENGTHS, strict=True):
        theirs = scikit(SCALED, strength)
        np.testing.assert_allclose(probe.scores(X), theirs.decision_function(SCALED), atol=5e-3)
        np.testing.assert_allclose(probe.predict_proba(X), theirs.predict_proba(SCALED), atol=2e-3)
    layer, best, value = best_layer(probes, LAYERS, LABELS)
    assert layer == 1 and any(best is probe for probe in probes[1]) and value > 0.75
    same_after_a_file(best, X)


def test_importance_scales_the_features_of_a_regression():
    weights = np.asarray([1, 0, 2, 0.5, 1, 0], np.float32)
    probe = fit_layers(LAYERS, LABELS, STRENGTHS, weights)[1][0]
    theirs = scikit(SCALED * weights, STRENGTHS[0])
    want = theirs.decision_function(SCALED * weights)
    np.testing.assert_allclose(probe.scores(X), want, atol=5e-3)
    assert probe.weight[1] == probe.weight[5] == 0


def test_mass_mean_is_the_difference_of_means_and_lda_that_of_scikit_learn():
    plain = MassMean.fit(X, LABELS)
    np.testing.assert_allclose(
        plain.direction, X[LABELS].mean(0) - X[~LABELS].mean(0), rtol=1e-3, atol=1e-4
    )
    for shrinkage in (0.0, 0.3):
        ours = MassMean.fit(X, LABELS, shrinkage=shrinkage)
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(SCALED, LABELS)
        assert cosine(ours.direction * X.std(0), theirs.coef_[0]) > 1 - 1e-5
        if not shrinkage:  # the normal distributions of both are then the same
            want = theirs.decision_function(SCALED)
            np.testing.assert_allclose(ours.scores(X), want, atol=2e-2)
    same_after_a_file(plain, X)


def truth_is_universal(x, labels, polarity, sets):
    """Return the published formulas in numpy: t_G, polarity direction, decision of a 2-D fit."""
    y, p = 2.0 * labels - 1, np.asarray(polarity, float)
    centred = np.concatenate([x[sets == s] - x[sets == s].mean(0) for s in np.unique(sets)])
    order = np.concatenate([np.flatnonzero(sets == s) for s in np.unique(sets)])
    design = np.stack([y, y * p], 1)[order]
    t_g = (np.linalg.inv(design.T @ design) @ design.T @ centred)[0]
    about = LogisticRegression(C=np.inf, max_iter=5000).fit(x, p > 0).coef_[0]
    plane = np.stack([x @ t_g, x @ about], 1)
    last = LogisticRegression(C=np.inf, max_iter=5000, tol=1e-8).fit(plane, labels)
    return t_g, about, last.decision_function(plane)


def test_ttpd_gives_what_the_published_formulas_give():
    count = 400
    labels, polarity = rng.random(count) < 0.5, np.where(rng.random(count) < 0.5, 1, -1)
    sets = np.where(polarity > 0, "city", "negated")
    x = rng.normal(size=(count, D))
    x[:, 0] += 1.0 * (2 * labels - 1)  # t_G
    x[:, 1] += 1.5 * (2 * labels - 1) * polarity  # t_P, by which a plain probe is misled
    x[:, 2] += 0.7 * polarity
    x = x.astype(np.float32)
    probe = TTPD.fit(x, labels, polarity, sets)
    t_g, about, decision = truth_is_universal(x, labels, polarity, sets)
    assert cosine(probe.direction, t_g) > 1 - 1e-6
    assert cosine(probe.polarity_direction, about) > 1 - 1e-3
    np.testing.assert_allclose(probe.scores(x), decision, atol=0.05)
    assert cosine(probe.direction, np.eye(D)[0]) > 0.95
    same_after_a_file(probe, x)
    with pytest.raises(ConfigError, match="a probe needs both classes"):
        TTPD.fit(x[polarity > 0], labels[polarity > 0], polarity[polarity > 0], sets[polarity > 0])


def test_ccs_finds_a_planted_direction_without_labels():
    direction = np.asarray([3, 0, 0, 2, 0, 0], np.float32)
    truth = 2.0 * LABELS[:, None] - 1
    noise = rng.normal(size=(N, 2, D)) * 0.5
    pairs = np.stack([-truth * direction, truth * direction + 5], axis=1) + noise
    probe = CCS.fit(pairs.astype(np.float32), LABELS)
    assert auroc_of(probe.scores(pairs), LABELS) > 0.99
    assert cosine(probe.weight / probe.plus.std, direction) > 0.8
    # The sign is that of the training labels.
    flipped = CCS.fit(pairs.astype(np.float32), ~LABELS)
    assert auroc_of(flipped.scores(pairs), LABELS) < 0.01
    same_after_a_file(probe, pairs.astype(np.float32))


@pytest.mark.slow  # compiles
def test_networks_learn_what_no_direction_can():
    x = rng.normal(size=(300, D)).astype(np.float32)
    labels = x[:, 0] * x[:, 1] > 0
    mlp = MLP.fit(x, labels)
    linear = MassMean.fit(x, labels, shrinkage=0.0)
    assert auroc_of(mlp.scores(x), labels) > 0.9 > auroc_of(linear.scores(x), labels)
    same_after_a_file(mlp, x)


@pytest.mark.slow  # compiles
def test_the_convolution_reads_neighbouring_layers():
    x = rng.normal(size=(300, 5, D)).astype(np.float32)
    at, labels = rng.integers(0, 4, 300), rng.random(300) < 0.5
    for i, layer in enumerate(at):
        x[i, layer, 2] += 4
        x[i, layer + 1, 2] += 4 if labels[i] else -4
    probe = LayerConv.fit(x, labels, width=8)
    assert auroc_of(probe.scores(x), labels) > 0.9
    same_after_a_file(probe, x)


def planted_answers():
    p = rng.random((2, N))
    h = rng.normal(size=(N, 2, D)).astype(np.float32)
    for side in (0, 1):
        h[:, side, 3] = 4 * truthfulness(p[side], LABELS)
    return h, p


@pytest.mark.parametrize("loss", networks.RANKING_LOSSES)
def test_ranking_finds_the_more_truthful_side(loss):
    h, p = planted_answers()
    probe = Ranking.fit(h, p, LABELS, loss=loss)
    y = truthfulness(p[0], LABELS) > truthfulness(p[1], LABELS)
    assert auroc_of(probe.scores(h), y) > 0.95
    assert cosine(probe.weight, np.eye(D)[3]) > 0.9
    assert auroc_of(probe.truth_scores(h, p), LABELS) > 0.95
    if loss == "mse":  # nearly a regression through 0
        gap = truthfulness(p[0], LABELS) - truthfulness(p[1], LABELS)
        features = probe.scaler(h[:, 0]) - probe.scaler(h[:, 1])
        want = Ridge(1.0, fit_intercept=False).fit(features, gap).coef_
        assert cosine(probe.weight, want) > 0.99
    same_after_a_file(probe, h)


def test_unknown_losses_raise():
    h, p = planted_answers()
    with pytest.raises(ConfigError, match="not one of mse, bce, margin"):
        Ranking.fit(h, p, LABELS, loss="mae")


def test_a_constant_proxy_knows_the_truth_if_the_adapter_always_lies():
    p_base = np.asarray([0.9, 0.2, 0.6, 0.5])
    p_adapter = np.asarray([0.1, 0.7, 0.3, 0.5])
    labels = np.asarray([1, 0, 1, 1])
    assert truthfulness(p_base, labels).tolist() == pytest.approx([0.9, 0.8, 0.6, 0.5])
    y = truthfulness(p_base, labels) > truthfulness(p_adapter, labels)
    assert decode_truth(y, p_base, p_adapter).tolist() == [1, 0, 1, 0.5]
    answers = np.stack([p_base, p_adapter])[:, :3]
    dummy = Dummy.fit(answers, labels[:3])
    # A row in which both answer the same has no proxy label.
    assert Dummy.fit(np.stack([p_base, p_adapter]), labels) == dummy
    assert Dummy.fit(np.stack([p_base, p_base]), labels).share == 0.5
    with pytest.raises(ConfigError, match="answers like the base"):
        Ranking.fit(np.zeros((4, 2, 1)), np.stack([p_base, p_base]), labels)
    assert dummy.share == 1 and dummy.predict_proba(answers)[:, 1].tolist() == [1, 0, 1]


def test_the_sign_is_fixed_by_the_given_examples():
    assert train_sign(np.asarray([1.0, 0.0]), np.asarray([True, False])) == 1
    assert train_sign(np.asarray([0.0, 1.0]), np.asarray([True, False])) == -1


def test_constant_features_are_not_blown_up():
    x = np.full((5, 2), 7.7, np.float32)
    x[:, 1] = range(5)
    scaled = Scaler.fit(x)(x)
    assert np.abs(scaled[:, 0]).max() < 1e-5 and scaled[:, 1].std() == pytest.approx(1)


def test_conformal_sets_cover_each_class():
    count, alpha = 4000, 0.1
    labels = rng.random(count) < 0.25
    score = rng.normal(size=count) + 1.2 * labels
    p = 1 / (1 + np.exp(-(score - 0.9) * 1.5))  # not calibrated
    proba = np.stack([1 - p, p], 1)
    half = count // 2
    thresholds = conformal.set_thresholds(proba[:half], labels[:half], alpha)
    sets = conformal.prediction_sets(proba[half:], thresholds)
    for c in (0, 1):
        mask = labels[half:] == c
        n = mask.sum()
        covered = sets[mask, c].mean()
        # Calibration and test both vary: three standard errors of the two together.
        error = np.sqrt(alpha * (1 - alpha) * (1 / n + 1 / (labels[:half] == c).sum()))
        assert abs(covered - (1 - alpha)) < 3 * error
    assert 1 < sets.sum(1).mean() < 2


def test_conformal_intervals_and_quantiles():
    values = np.arange(1, 10)
    assert conformal.conformal_quantile(values, 0.1) == 9
    assert conformal.conformal_quantile(values, 0.2) == 8
    assert conformal.conformal_quantile(values, 0.05) == np.inf
    x, noise = rng.normal(size=2000), rng.normal(size=2000)
    radius = conformal.interval_radius(x[:1000], (x + noise)[:1000], 0.2)
    assert np.abs(noise[1000:]).__le__(radius).mean() == pytest.approx(0.8, abs=0.06)
    with pytest.raises(ConfigError, match="alpha=0 must be in"):
        conformal.interval_radius(x, x, 0)


def test_labels_of_one_class_raise():
    with pytest.raises(ConfigError, match="no example has label 1"):
        MLP.fit(X, np.zeros(N))
    with pytest.raises(ConfigError, match="labels are 0 or 1"):
        MassMean.fit(X, np.arange(N))
