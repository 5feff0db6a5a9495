"""Losses on choices: equal to formulas on plain probabilities, finite at padding."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.models.probes import interventions as I
from flaxae.models.probes.interventions import Intervention

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 9)) * 3, jnp.float32)
IDS = jnp.asarray([[[1, 2, 0], [3, 0, 0]]] * 5)
MASK = jnp.asarray([[[1, 1, 0], [1, 0, 0]]] * 5, jnp.float32)
P = np.exp(np.asarray(LOGITS, np.float64))
P /= P.sum(1, keepdims=True)
CHOICES = np.stack([P[:, 1] + P[:, 2], P[:, 3]], 1)  # probabilities of the two choices
NORMAL = CHOICES / CHOICES.sum(1, keepdims=True)
LOG_PROBS = jax.jit(I.choice_log_probs)(LOGITS, IDS, MASK)
choice_kl, flip_loss = jax.jit(I.choice_kl), jax.jit(I.flip_loss)


def test_probabilities_are_sums_over_distinct_ids():
    found = LOG_PROBS
    np.testing.assert_allclose(np.exp(found), CHOICES, rtol=1e-5)
    want = np.log(NORMAL[:, 1] / NORMAL[:, 0])
    np.testing.assert_allclose(jax.jit(I.answer_log_odds)(found), want, atol=1e-5)
    np.testing.assert_allclose(jax.jit(I.coverage)(found), CHOICES.sum(1), rtol=1e-5)
    grad = jax.jit(jax.grad(lambda x: I.choice_log_probs(x, IDS, MASK).sum()))(LOGITS)
    assert np.isfinite(grad).all()


def unnormalised_kl(target, log_probs):
    """Return the sum of the original experiment, whose terms are of two sub-distributions."""
    return np.sum(np.exp(target) * (target - log_probs), axis=-1)


def test_the_renormalised_kl_is_never_negative_and_the_plain_sum_is():
    draws = np.random.default_rng(1).normal(size=(2, 400, 2)) * 4 - 3
    target, model = (jnp.asarray(x, jnp.float32) for x in draws)
    p, q = (np.log(np.exp(x) / np.exp(x).sum(-1, keepdims=True)) for x in draws)
    want = np.sum(np.exp(p) * (p - q), -1)
    got = np.asarray(choice_kl(target, model))
    np.testing.assert_allclose(got, want, atol=2e-6)
    assert (got >= 0).all() and np.asarray(choice_kl(target, target)).max() == 0
    # A model that puts more on both choices than the target has a negative "divergence".
    assert unnormalised_kl(target, target + 1).max() < 0
    assert np.asarray(choice_kl(target, target + 1)).max() < 1e-6


def test_flip_is_least_at_the_exchanged_base():
    base = LOG_PROBS
    assert np.asarray(flip_loss(base, base[:, ::-1] - 0.3)).max() < 1e-6
    want = (NORMAL[:, ::-1] * np.log(NORMAL[:, ::-1] / NORMAL)).sum(1)
    np.testing.assert_allclose(flip_loss(base, base), want, rtol=1e-4)
    assert not np.asarray(jax.jit(jax.grad(lambda b: I.flip_loss(b, base).sum()))(base)).any()


def test_targets_of_interventions():
    label, lie = jnp.asarray([0, 1, 0, 1]), jnp.asarray([0, 0, 1, 1])
    want = {
        Intervention.TRUTH: [0, 1, 0, 1],
        Intervention.ALWAYS_LIE: [1, 0, 1, 0],
        Intervention.LIE_WHEN_TOLD: [0, 1, 1, 0],
        Intervention.T_FEW: [0, 1, 1, 0],
    }
    for kind, target in want.items():
        assert I.target_of(kind, label, lie).tolist() == target
    found = LOG_PROBS
    target = jnp.asarray([0, 1, 1, 0, 1])
    want = -np.log(CHOICES[np.arange(5), np.asarray(target)])
    np.testing.assert_allclose(I.target_loss(found, target), want, rtol=1e-4)


def test_the_losses_of_t_few():
    # A wrong token of probability 1 has a finite loss, and padding no influence on any gradient.
    tokens = jnp.asarray([[[-0.5, -1.0, 0.0], [-2.0, -0.1, 0.0]], [[0.0, 7.0, 7.0], [-1, -2, -3]]])
    mask = jnp.asarray([[[1, 1, 0], [1, 1, 0]], [[1, 0, 0], [1, 1, 1]]], jnp.float32)
    target = jnp.asarray([0, 1])
    mean = np.asarray([[-0.75, -1.05], [0.0, -2.0]])
    lm = np.asarray([0.75, 2.0])
    ul = [-np.mean(np.log(1 - np.exp([-2.0, -0.1]) + 1e-2)), -np.log(1e-2)]
    ln = -np.log(np.exp(mean) / np.exp(mean).sum(1, keepdims=True))[[0, 1], [0, 1]]
    got = jax.jit(I.t_few_loss)(tokens, mask, target)
    np.testing.assert_allclose(got, lm + ul + ln, rtol=1e-5)
    grad = np.asarray(jax.jit(jax.grad(lambda x: I.t_few_loss(x, mask, target).sum()))(tokens))
    assert np.isfinite(grad).all() and not grad[np.asarray(mask) == 0].any()
