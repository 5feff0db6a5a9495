"""Llama-style models from and to Hugging Face directories."""

import dataclasses
from typing import Any

from flaxae.errors import require
from flaxae.lm import features, files
from flaxae.lm.llama.modeling import Llama, LlamaConfig
from flaxae.lm.rope_config import rope_parameters
from flaxae.nn.rope import RopeScaling
from flaxae.weights.hf import Table, TensorSource, Weight

MODEL = Llama
MODEL_TYPES = ("llama",)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FIELDS = {
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "num_hidden_layers": "num_layers",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_length",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
    "attention_bias": "attention_bias",
    "attention_dropout": "attention_dropout",
    "mlp_bias": "mlp_bias",
}
# Values of fields that files may lack.
DEFAULTS = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
}
# Other names of fields that are read.
NORM_EPS = ("norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
ACTIVATIONS = ("hidden_activation", "activation_function")
# Fields of Llama 3's scaling -> ours.
RAMP = {
    "low_freq_factor": "rope_low",
    "high_freq_factor": "rope_high",
    "original_max_position_embeddings": "rope_original_length",
}


def config_from_hf(raw: dict[str, Any]) -> LlamaConfig:
    """Convert a config.json.

    Raises:
        ConfigError: if the config is not that of a supported Llama.
    """
    files.check_kinds(raw, LlamaConfig, FIELDS)
    kind = raw.get("model_type")
    require(kind in MODEL_TYPES, f"model_type={kind!r} is not one of: {', '.join(MODEL_TYPES)}")
    act = raw.get("hidden_act", "silu")
    require(act == "silu", f"hidden_act={act!r}: only silu is supported")
    raw = DEFAULTS | {k: v for k, v in raw.items() if v is not None}
    raw.setdefault("num_key_value_heads", raw.get("num_attention_heads"))
    if "head_dim" not in raw and raw.get("num_attention_heads") and raw.get("hidden_size"):
        raw["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]
    config = LlamaConfig(
        **files.given(raw, FIELDS, "Llama"), **files.token_ids(raw, 1, 2), **_rope(raw)
    )
    config.validate()
    width = config.head_dim
    features.check(
        raw,
        "Llama",
        features.rotary(width, width, config.rope_theta)
        | features.same(NORM_EPS, config.norm_eps)
        | features.same(ACTIVATIONS, act)
        | {"is_encoder_decoder": (False,)},
    )
    return config


def _rope(raw: dict[str, Any]) -> dict[str, Any]:
    found = rope_parameters(raw)
    kind, known = found["rope_type"], {x.value: x for x in RopeScaling}
    require(kind in known, f"rope_type={kind!r} is not one of: {', '.join(known)}")
    part = found.get("partial_rotary_factor", 1.0)
    require(part == 1, f"partial_rotary_factor={part}: a Llama rotates whole heads")
    out = {"rope_theta": found["rope_theta"], "rope_scaling": known[kind]}
    if known[kind] is not RopeScaling.NONE:
        out |= files.given(found, {"factor": "rope_factor"}, f"Llama with rope_type={kind}")
    if known[kind] is RopeScaling.LLAMA3:
        out |= files.given(found, RAMP, "Llama with rope_type=llama3")
    return out


def config_to_hf(config: LlamaConfig) -> dict[str, Any]:
    """Return the contents of config.json, for transformers 4 and 5."""
    scaling: dict[str, Any] | None = None
    if config.rope_scaling is not RopeScaling.NONE:
        scaling = {"rope_type": config.rope_scaling.value, "factor": config.rope_factor}
    if config.rope_scaling is RopeScaling.LLAMA3:
        scaling = {**(scaling or {}), **{a: getattr(config, b) for a, b in RAMP.items()}}
    ends = list(config.eos_ids)
    return {
        **{theirs: getattr(config, ours) for theirs, ours in FIELDS.items()},
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": config.bos_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "hidden_act": "silu",
        "model_type": "llama",
        "rope_scaling": scaling,
        "rope_theta": config.rope_theta,
    }


def with_own_head(config: LlamaConfig, tensors: TensorSource) -> LlamaConfig:
    """Return the config with an untied head if the files have another head than the embedding.

    As in transformers 5, where `tie_word_embeddings` does not replace a head that a file contains.

    Args:
        config: our config.
        tensors: the tensors of the model's files.
    """
    both = config.tie_embeddings and {EMBEDDING, HEAD} <= tensors.names
    if both and not tensors.same(EMBEDDING, HEAD):
        return dataclasses.replace(config, tie_embeddings=False)
    return config


def table(config: LlamaConfig) -> Table:
    """Return the table of tensors and parameters."""
    layers = range(config.num_layers)
    weights = {"embed_tokens/table": Weight((EMBEDDING,))}
    if config.tie_embeddings:
        weights["embed_tokens/table"] = Weight((EMBEDDING,), aliases=(HEAD,))
    else:
        weights["lm_head/kernel"] = Weight((HEAD,), transpose=True)
    weights |= files.norm("final_norm", ("model.norm",), False, stacked=False)
    for name in ("input_layernorm", "post_attention_layernorm"):
        names = tuple(f"model.layers.{i}.{name}" for i in layers)
        weights |= files.norm(f"blocks/{name}", names, False)
    parts = {
        "self_attn": (("q_proj", "k_proj", "v_proj", "o_proj"), config.attention_bias),
        "mlp": (("gate_proj", "up_proj", "down_proj"), config.mlp_bias),
    }
    for part, (linears, bias) in parts.items():
        for name in linears:
            names = tuple(f"model.layers.{i}.{part}.{name}" for i in layers)
            weights |= files.linear(f"blocks/{part}/{name}", names, bias)
    # Older files contain the rotary frequencies, which follow from the config.
    unused = tuple(f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in layers)
    return Table(weights, unused)


def table_of(config: LlamaConfig, names: set[str]) -> Table:
    """Return the table for a directory's tensors; a Llama's names have one form."""
    return table(config)
