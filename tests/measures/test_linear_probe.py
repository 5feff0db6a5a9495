"""Logistic regressions equal scikit-learn's, for all layers and regularisations at once."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from flaxae.errors import ConfigError
from flaxae.measures.linear_probe import fit

L, N, D = 2, 60, 5
rng = np.random.default_rng(0)
LABELS = rng.random(N) < 0.4
X = (rng.normal(size=(L, N, D)) * [1, 5, 0.1, 1, 1] + 3).astype(np.float32)
X[:, :, 0] += LABELS
X[:, :, 4] = 7.7  # constant; its mean in float32 is not exact
STRENGTHS = np.asarray([0.01, 1.0, 100.0], np.float32)


@pytest.fixture(scope="module")
def probes():
    """Fit probes; examples of weight 0, which contradict the others, have no influence."""
    more = np.concatenate([X, X[:, :9] * 100], axis=1)
    labels = np.concatenate([LABELS, ~LABELS[:9]])
    weights = np.asarray([1.0] * N + [0.0] * 9, np.float32)
    return fit(more, labels, STRENGTHS, weights=weights)


def test_probes_equal_scikit_learn(probes):
    assert probes.weights.shape == (L, 3, D) and probes.converged.all()
    scores = probes.scores(X)
    for i in range(L):
        scale = X[i].std(0)
        inputs = (X[i] - X[i].mean(0)) / np.where(scale > 1e-2, scale, 1)
        for j, strength in enumerate(STRENGTHS):
            theirs = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=2000)
            want = theirs.fit(inputs, LABELS).decision_function(inputs)
            np.testing.assert_allclose(scores[i, j], want, rtol=0, atol=0.02)
    assert np.abs(probes.weights[:, :, 4]).max() < 1e-3
    assert (np.diff(np.linalg.norm(probes.weights[:, :, 0], axis=0)) < 0).all()
    chance = probes.probabilities(X)
    np.testing.assert_allclose(chance, 1 / (1 + np.exp(-scores)), rtol=1e-6)


def test_a_missing_class_raises():
    with pytest.raises(ConfigError, match="no example has label True"):
        fit(X, np.zeros(N, bool), STRENGTHS)
