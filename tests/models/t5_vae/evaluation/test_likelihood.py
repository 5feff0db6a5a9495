"""Teacher-forced losses of a tiny model, and bounds of models with a known likelihood."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.models.t5_vae.evaluation import likelihood as m
from flaxae.task import Context
from tests.models.t5_vae.tiny import tiny_model, tiny_task


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_task())


@pytest.fixture(scope="module")
def scorer(model):
    return m.Scorer(model, 0)


IDS = np.asarray([[3, 4, 5, 1, 0, 0, 0, 0], [6, 1, 0, 0, 0, 0, 0, 0], [3, 3, 3, 3, 3, 3, 3, 1]])


def test_teacher_forced_equals_the_models_loss(model, scorer):
    z, none, _ = scorer.encode(IDS)
    assert z.shape == (3, 1, 8) and none is None
    found = scorer.teacher_forced(IDS, z)
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))
    ids = jnp.asarray(IDS, jnp.int32)
    states = model.decode(jnp.asarray(z), [ids], ctx)
    weights = (ids != 0).astype(jnp.float32).reshape(-1)
    loss, correct = model.t5.loss(states, ids.reshape(-1), weights, ctx)
    assert found[:, 0].sum() == pytest.approx(float(loss), rel=1e-5)
    assert found[:, 1].tolist() == [4, 2, 8] and found[:, 2].sum() == float(correct)
    np.testing.assert_allclose(scorer.teacher_forced(IDS[1:2], z[1:2]), found[1:2], rtol=1e-4)


def test_pooled_states_ignore_padding(scorer):
    whole = scorer.encode(IDS).pooled
    assert whole.shape == (3, 16) and np.abs(whole[0] - whole[1]).max() > 0.1
    np.testing.assert_allclose(scorer.encode(IDS[1:2]).pooled[0], whole[1], atol=1e-5)


class KnownScorer:
    """A scorer whose -log p(x | z) is a given function."""

    def __init__(self, nats):
        self.nats = nats

    def teacher_forced(self, ids, z):
        nats = self.nats(ids, z.reshape(len(ids), -1))
        return np.stack([nats, np.full(len(ids), 4.0), np.full(len(ids), 1.0)], axis=1)


def test_a_decoder_that_ignores_codes_raises_the_alarm():
    ids = np.arange(40)[:, None]
    codes = np.arange(40.0).reshape(40, 1, 1)
    ignores: Any = KnownScorer(lambda ids, z: np.full(len(ids), 8.0))
    found = m.posterior_collapse(ignores, ids, codes)
    assert found["alarm"] and found["shuffled_gap"]["value"] == 0
    assert found["cross_entropy"]["value"] == 2 and found["accuracy"]["value"] == 0.25
    reads: Any = KnownScorer(lambda ids, z: np.abs(ids[:, 0] - z[:, 0]))
    found = m.posterior_collapse(reads, ids, codes)
    assert not found["alarm"] and found["cross_entropy"]["value"] == 0
    assert found["shuffled"]["value"] == pytest.approx((39 + 39) / 160)
    assert found["zero"]["value"] == pytest.approx(19.5 / 4)


def test_the_bound_is_exact_if_the_posterior_is_right():
    """For x ~ N(z, 1) and z ~ N(0, 1), p(x) = N(0, 2) and the posterior is N(x / 2, 1 / 2)."""
    x = np.random.default_rng(7).normal(0, np.sqrt(2), size=(200, 1))
    scorer: Any = KnownScorer(lambda ids, z: 0.5 * ((ids - z) ** 2 + np.log(2 * np.pi))[:, 0])
    exact = 0.5 * (x**2 / 2 + np.log(4 * np.pi))[:, 0]
    num_bytes = np.full(200, 2)
    true = m.importance_weighted(
        scorer, x, x[:, None] / 2, np.full((200, 1, 1), np.log(0.5)), num_bytes, samples=3
    )
    assert true["nats_per_text"]["value"] == pytest.approx(exact.mean(), rel=1e-6)
    assert true["perplexity"]["value"] == pytest.approx(np.exp(exact.mean() / 4))
    assert true["bits_per_byte"]["value"] == pytest.approx(exact.mean() / np.log(2) / 2)
    wrong = [
        m.importance_weighted(
            scorer, x, np.zeros((200, 1, 1)), np.zeros((200, 1, 1)), num_bytes, samples=k
        )["nats_per_text"]["value"]
        for k in (1, 100)
    ]
    assert wrong[0] > wrong[1] + 0.1 and wrong[1] == pytest.approx(exact.mean(), abs=0.03)
