"""Fields of config.json that change what a model computes: read, neutral, or refused by name."""

import pytest

from flaxae.errors import ConfigError
from flaxae.lm import features
from flaxae.lm.funnel import params as funnel
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.lm.llama import params as llama
from flaxae.lm.phi import params as phi
from flaxae.lm.t5 import params as t5
from flaxae.lm.t5.blocks import T5Config
from tests.tiny.language_models import KINDS

LLAMA = llama.config_to_hf(KINDS["llama"][1])
PHI = phi.config_to_hf(KINDS["phi"][1])
T5 = t5.config_to_hf(T5Config(vocab_size=32))
FUNNEL = funnel.config_to_hf(FunnelConfig(vocab_size=32, hf_compat_mask=True))
FAMILIES = {"llama": (llama, LLAMA), "phi": (phi, PHI), "t5": (t5, T5), "funnel": (funnel, FUNNEL)}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("llama", {"sliding_window": 16}, "sliding_window=16, shorter than .*=200"),
        ("llama", {"sliding_window": 16, "use_sliding_window": True}, "sliding_window=16"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 changes what"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("llama", {"rotary_pct": 0.5}, r"rotary_pct=0.5.*\(only 1.0\)"),
        ("llama", {"embedding_multiplier": 12.0}, r"embedding_multiplier=12.0.*\(only 1\)"),
        ("llama", {"attention_multiplier": 0.1}, r"attention_multiplier=0.1.*\(only 0.5\)"),
        ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
        ("llama", {"no_rope_layers": [1, 0, 1]}, "no_rope_layers="),
        ("llama", {"num_local_experts": 8}, "num_local_experts=8"),
        ("llama", {"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ("llama", {"norm_eps": 1e-3}, r"norm_eps=0.001.*\(only 1e-05\)"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved=True"),
        ("llama", {"is_causal": False}, "is_causal=False"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm=True changes what a Phi"),
        ("phi", {"rotary_dim": 8}, r"rotary_dim=8.*\(only 4\)"),
        ("t5", {"tie_encoder_decoder": True}, "tie_encoder_decoder=True changes what a T5"),
        ("t5", {"dense_act_fn": "relu"}, r"dense_act_fn='relu'.*\(only gelu or gelu_new\)"),
        ("t5", {"is_gated_act": False}, "is_gated_act=False"),
        ("t5", {"hidden_size": 77}, r"hidden_size=77.*\(only 192\)"),
        ("funnel", {"hidden_size": 77}, r"hidden_size=77 .*Funnel Transformer.*\(only 192\)"),
        ("funnel", {"is_encoder_decoder": True}, "is_encoder_decoder=True"),
        ("funnel", {"pooling_type": "sum"}, "pooling_type='sum' is not one of: mean, max"),
        ("funnel", {"attention_type": "full"}, "attention_type='full' is not one of: factorized,"),
        ("funnel", {"block_sizes": [4000, 97]}, "block_sizes: 4099 layers are above 4096"),
    ],
)
def test_a_field_that_changes_the_computation_is_refused_by_name(kind, change, message):
    family, raw = FAMILIES[kind]
    with pytest.raises(ConfigError, match=message):
        family.config_from_hf(raw | change)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("value", [7, True, "x", [2]])
def test_every_listed_feature_is_refused_when_it_is_on_and_accepted_when_off(kind, value):
    family, raw = FAMILIES[kind]
    right = family.config_from_hf(raw)
    for name in (*features.OFF, *features.NEUTRAL):
        for off in (None, []) + ((False, 0) if name in features.OFF else ()):
            assert family.config_from_hf(raw | {name: off}) == right
        if value is not True or name in features.OFF:
            with pytest.raises(ConfigError, match=name):
                family.config_from_hf(raw | {name: value})


def test_values_at_which_a_feature_changes_nothing_are_accepted():
    neutral = {
        "sliding_window": 200,
        "layer_types": ["full_attention"] * 3,
        "query_pre_attn_scalar": 4,
        "logit_scale": 1.0,
        "head_dim": 4,
        "pretraining_tp": 2,
        "use_cache": False,
        "hidden_activation": "silu",
        "rope_base": 100.0,
    }
    assert llama.config_from_hf(LLAMA | neutral) == llama.config_from_hf(LLAMA)
    window = {"sliding_window": 16, "use_sliding_window": False}
    assert llama.config_from_hf(LLAMA | window) == llama.config_from_hf(LLAMA)
    published = {"dense_act_fn": "gelu_new", "is_gated_act": True, "n_positions": 512}
    assert t5.config_from_hf(T5 | published) == t5.config_from_hf(T5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"factor": 4.0}}, 'factor=4.0, but no rope_type: add it, such as "rope_'),
        ({"rope_parameters": {"factor": 4.0, "rope_theta": 100.0}}, "but no rope_type"),
        (
            {"rope_scaling": {"rope_type": "default", "factor": 4.0}},
            "factor=4.0 and rope_type='default', which does not use it",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 4.0, "beta_fast": 32}},
            "beta_fast=32 and rope_type='linear'",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "type": "llama3", "factor": 4.0}},
            "rope_type='llama3', but elsewhere in config.json 'linear'",
        ),
        (
            {
                "rope_scaling": {"rope_type": "linear", "factor": 4.0},
                "rope_parameters": {"rope_type": "linear", "factor": 2.0},
            },
            "factor=2.0, but elsewhere in config.json 4.0",
        ),
        ({"rope_parameters": {"rope_theta": 7.0}}, "rope_theta=100.0, but elsewhere .* 7.0"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 7.0}}},
            "full_attention has parameters of its own",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_type='dynamic' is not one of"),
    ],
)
def test_rotary_fields_that_contradict_each_other_or_lack_a_type_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        llama.config_from_hf(LLAMA | change)


def test_rotary_fields_that_agree_are_accepted():
    linear = {"type": "linear", "rope_type": "linear", "factor": 4.0}
    both = {"rope_scaling": linear, "rope_parameters": linear | {"rope_theta": 100.0}}
    assert llama.config_from_hf(LLAMA | both).rope_factor == 4.0
    for nothing in ({"factor": 1.0}, {"type": "default", "factor": 1.0}, {}):
        assert llama.config_from_hf(LLAMA | {"rope_scaling": nothing}) == KINDS["llama"][1]
