"""Measures of states on models and arrays whose values are known."""

import numpy as np
import pytest
from flax import nnx

from flaxae.data.tokenizer import EOS, PAD
from flaxae.models.funnel_ae import states
from flaxae.models.funnel_ae.latents import LatentConfig
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.models.funnel_ae.skips import SkipConfig
from flaxae.models.funnel_ae.upsampling import Upsampling
from tests.models.funnel_ae.tiny import tiny_funnel

IDS = np.asarray([[5, 6, 7, 4, 9, 8, 3, EOS], [4, 3, 5, 6, EOS, PAD, PAD, PAD]], np.int32)


@pytest.fixture(scope="module")
def found():
    """Return states of a model that repeats, before and after the measures."""
    model = FunnelAEModel(
        tiny_funnel(vocab_size=10, block_sizes=(1, 3)),
        LatentConfig(dim=0),
        8,
        upsampling=Upsampling.REPEAT,
        skip=SkipConfig(),
        share=False,
        rngs=nnx.Rngs(params=0, frozen=1),
    )
    return states._states(model, IDS)


def test_repeated_states_do_not_differ_and_the_original_has_its_own_variance(found, monkeypatch):
    monkeypatch.setattr(states, "_states", lambda model, ids: found)
    assert states.measure_states(None, IDS)["differences"][0]["ratio"] == 0
    same = found | {"upsampled": found["encoder"][:1]}
    monkeypatch.setattr(states, "_states", lambda model, ids: same)
    assert states.measure_states(None, IDS)["differences"][0]["ratio"] == 1


def test_layers_are_named_in_order_of_computation(found):
    names = [name for name, _, _ in found["layers"]]
    encoder = ["encoder 0.0", "encoder 1.0", "encoder 1.1", "encoder 1.2"]
    decoder = ["decoder 1.2", "decoder 1.1", "decoder 1.0", "upsampled 0"]
    assert names == [*encoder, *decoder, "decoder 0.0"]
    by_name = {name: x for name, _, x in found["layers"]}
    # The last layer of an encoder's block gives the block's states.
    np.testing.assert_array_equal(by_name["encoder 0.0"], found["encoder"][0])
    np.testing.assert_array_equal(by_name["encoder 1.2"], found["encoder"][1])
    # The last layer that the decoder applies in its inner block is the first one.
    repeated = np.repeat(by_name["decoder 1.0"], 2, axis=1)
    np.testing.assert_array_equal(repeated, by_name["upsampled 0"])


def test_difference_variance_is_the_sum_over_dimensions_of_real_pairs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4, 3))
    odd, even = x[:, 1], x[:, 0]
    pairs = np.tile([1.0, 0.0], (500, 1))
    assert states.difference_variance(x, pairs) == pytest.approx((odd - even).var(0).sum())
    constant = np.tile(rng.normal(size=(1, 4, 3)), (500, 1, 1))
    assert states.difference_variance(constant, pairs) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("keys", [2, 8, 32])
def test_attention_to_the_own_pair_is_half_the_keys_times_uniform(keys):
    own = np.kron(np.eye(keys // 2), [[0.3, 0.7]])[None, None]
    mask = np.ones((1, keys))
    assert states.own_pair_attention(own, mask) == pytest.approx(keys / 2)
    uniform = np.full((1, 3, keys // 2, keys), 1 / keys)
    assert states.own_pair_attention(uniform, mask) == pytest.approx(1)


def test_padding_counts_in_no_share_of_attention():
    mask = np.asarray([[1, 1, 1, 0, 0, 0]])
    uniform = np.tile(mask / 3, (3, 1))[None, None]
    assert states.own_pair_attention(uniform, mask) == pytest.approx(1)
    own = np.asarray([[0.5, 0.5, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])[None, None]
    assert states.own_pair_attention(own, mask) == pytest.approx((3 / 2 + 3) / 2)
