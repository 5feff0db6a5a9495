"""Clamped features and added directions: states by hand, and texts without a cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.activations.cache import Tap
from flaxae.activations.reader import StateReader
from flaxae.errors import ConfigError
from flaxae.lm import loading
from flaxae.sparse_autoencoder.api import SAE
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig
from flaxae.sparse_autoencoder.origin import Origin
from flaxae.sparse_autoencoder.parameters import build
from flaxae.sparse_autoencoder.splice import splice
from flaxae.sparse_autoencoder.steering import Steering, clamped, shifted
from tests.models.causal_lm.tiny import base
from tests.sparse_autoencoder.tiny_dictionaries import arrays, context

FEATURES, VALUES = np.asarray([3, 3, 9]), np.asarray([np.nan, 0.0, 25.0], np.float32)
IDS = np.random.default_rng(0).integers(3, 250, (3, 7)).astype(np.int32)
LAYER = 1  # the last one


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return loading.load(base(tmp_path_factory.mktemp("steering")))


def dictionary(activation=Activation.TOPK, **fields):
    config = SAEConfig(
        16, 24, activation=activation, k=4 * (activation is Activation.TOPK), **fields
    )
    return build(config, arrays(config))


def final(lm, taps):
    """Return the final states of IDS with taps."""
    run = jax.jit(lambda: lm.model.states(IDS, dataclasses.replace(context(), taps=taps)))
    return np.asarray(run())


def test_a_clamped_feature_changes_the_state_along_its_row_only(lm):
    """The dictionary's error stays, and a feature that is not clamped keeps the state."""
    sae = dictionary(rescale_by_decoder_norm=True)
    mask = np.ones(IDS.shape, np.float32)
    state = StateReader(lm.model, [Tap("resid_out", LAYER)], 3)(IDS, mask)[0]
    found = final(lm, clamped(lm.model, sae, "resid_out", LAYER, FEATURES, VALUES))
    latents = np.asarray(jax.jit(lambda: sae.encode(jnp.asarray(state), context()))())
    row = np.asarray(sae.w_dec[...]) / np.asarray(sae.decoder_norms())[:, None]
    for i, (feature, value) in enumerate(zip(FEATURES, VALUES, strict=True)):
        old = latents[i, :, feature]
        change = np.where(np.isnan(value), 0, value - old)[:, None] * row[feature]
        want = lm.model.final_norm(jnp.asarray(state[i] + change), context())
        np.testing.assert_allclose(found[i], want, rtol=0, atol=2e-5)
    plain = lm.model.final_norm(jnp.asarray(state), context())
    assert np.abs(found[2] - plain[2]).max() > 0.1


def test_states_that_are_not_edited_stay_exactly_the_same(lm):
    """A sum and a difference of the reconstruction would leave a rounding error."""
    state = np.random.default_rng(1).normal(size=(*IDS.shape, 16)).astype(np.float32) * 100
    where = np.arange(IDS.shape[1])[None] >= 2
    taps = clamped(lm.model, dictionary(), "resid_out", LAYER, FEATURES, VALUES, where=where)
    found = np.asarray(jax.jit(taps.change)(state, state))
    np.testing.assert_array_equal(found[0], state[0])  # NaN: not steered
    np.testing.assert_array_equal(found[:, :2], state[:, :2])
    assert np.abs(found[2] - state[2])[2:].max() > 1
    kept = splice(lm.model, dictionary(), "resid_out", LAYER, error=True)
    np.testing.assert_array_equal(jax.jit(kept.change)(state, state), state)


def test_a_direction_is_added_to_each_row_with_its_strength(lm):
    direction, strength = np.arange(16, dtype=np.float32), np.asarray([0.0, 1.0, -2.0])
    mask = np.ones(IDS.shape, np.float32)
    state = StateReader(lm.model, [Tap("resid_out", LAYER)], 3)(IDS, mask)[0]
    found = final(lm, shifted(lm.model, "resid_out", LAYER, direction, strength))
    want = state + strength[:, None, None].astype(np.float32) * direction
    want = lm.model.final_norm(jnp.asarray(want), context())
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-5)


def test_steered_texts_of_a_transcoder_are_those_without_a_cache(lm):
    sae = dictionary(Activation.RELU, d_out=16, transcoder=True, subtract_b_dec=False)
    origin = Origin(hook="mlp_in", layer=0, hook_out="mlp_out")
    steering = Steering(lm, SAE(sae, origin))
    settings = [(3, None), (3, 0.0), (9, 60.0)]
    texts = steering("Say", settings, max_new_tokens=5)
    prompt = lm.tokenizer.encode(["Say"])[0]
    rows = np.zeros((3, len(prompt) + 5), np.int32)
    rows[:, : len(prompt)] = prompt

    @jax.jit
    def best(ids):
        where = jnp.arange(ids.shape[1])[None] >= 1  # not the first token, a sink of attention
        more = {"hook_out": "mlp_out", "where": where}
        taps = clamped(lm.model, sae, "mlp_in", 0, FEATURES, values, **more)
        logits = lm.model(ids, dataclasses.replace(context(), taps=taps))
        return jnp.argmax(logits[:, :, : lm.tokenizer.vocab_size], axis=-1)

    values = np.asarray([np.nan, 0.0, 60.0], np.float32)
    for i in range(len(prompt), rows.shape[1]):
        rows[:, i] = np.asarray(best(rows))[:, i - 1]
    for row, text in zip(rows, texts, strict=True):
        new = row[len(prompt) :].tolist()
        end = next((i for i, token in enumerate(new) if token in lm.config.eos_ids), len(new))
        assert text == lm.tokenizer.decode(new[:end])
    assert texts[0] != texts[2]


def test_wrong_settings_are_one_error(lm):
    sae = dictionary()
    with pytest.raises(ConfigError, match="does not name its hook and layer"):
        Steering(lm, SAE(sae))
    origin = Origin(hook="resid_out", layer=0, fingerprint="0123")
    with pytest.raises(ConfigError, match="with fingerprint 0123, and this model's is"):
        Steering(lm, SAE(sae, origin))
    steering = Steering(lm, SAE(sae, origin), other_model=True)
    with pytest.raises(ConfigError, match="no feature 24: they are 0 to 23"):
        steering("Say", [(24, 1.0)])
    with pytest.raises(ConfigError, match="the prompt is empty"):
        steering("", [(2, 1.0)])
