"""Phi-1, 1.5 and 2 to and from Hugging Face directories, with current and original names.

The original names are those of the code that Microsoft first published, `phi-msft`.
"""

import math
from typing import Any

from flaxae.errors import require
from flaxae.lm import features, files
from flaxae.lm.phi.modeling import Phi, PhiConfig
from flaxae.lm.rope_config import rope_parameters
from flaxae.weights.hf import Table, Weight

MODEL = Phi
OLD_TYPES = ("phi-msft",)
MODEL_TYPES = ("phi", *OLD_TYPES)
OLD_EMBEDDING = "transformer.embd.wte.weight"
FIELDS = {
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "num_hidden_layers": "num_layers",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_length",
    "layer_norm_eps": "norm_eps",
    "attention_dropout": "attention_dropout",
    "resid_pdrop": "residual_dropout",
    "embd_pdrop": "embedding_dropout",
}
# Values of fields that files may lack.
DEFAULTS = {
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "hidden_act": "gelu_new",
}
# Other names of fields that are read.
NORM_EPS = ("norm_eps", "rms_norm_eps", "layer_norm_epsilon", "norm_epsilon")
ACTIVATIONS = ("hidden_activation", "activation_function")
OLD_FIELDS = {
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "attn_pdrop": "attention_dropout",
    "activation_function": "hidden_act",
}


def config_from_hf(raw: dict[str, Any]) -> PhiConfig:
    """Convert a config.json.

    Raises:
        ConfigError: if the config is not that of a supported Phi.
    """
    names = {old: FIELDS[new] for old, new in OLD_FIELDS.items() if new in FIELDS}
    files.check_kinds(raw, PhiConfig, FIELDS | names | {"rotary_dim": "rotary_dim"})
    kind = raw.get("model_type")
    require(kind in MODEL_TYPES, f"model_type={kind!r} is not one of: {', '.join(MODEL_TYPES)}")
    raw = {k: v for k, v in raw.items() if v is not None}
    if kind in OLD_TYPES:
        raw = {OLD_FIELDS.get(k, k): v for k, v in raw.items()}
        raw.setdefault("intermediate_size", 4 * raw.get("hidden_size", 0))
    raw = DEFAULTS | raw
    act = raw["hidden_act"]
    require(act == "gelu_new", f"hidden_act={act!r}: only gelu_new is supported")
    require(not raw.get("tie_word_embeddings"), "a Phi with tied embeddings is not supported")
    raw.setdefault("num_key_value_heads", raw.get("num_attention_heads"))
    known = files.given(raw, FIELDS, "Phi")
    head_dim = raw.get("head_dim", known["d_model"] // max(known["num_heads"], 1))
    config = PhiConfig(
        **known, **_rope(raw, head_dim), head_dim=head_dim, **files.token_ids(raw, 1, 2)
    )
    config.validate()
    features.check(
        raw,
        "Phi",
        features.rotary(head_dim, config.rotary_dim, config.rope_theta)
        | features.same(NORM_EPS, config.norm_eps)
        | features.same(ACTIVATIONS, act)
        | {"is_encoder_decoder": (False,)},
    )
    return config


def _rope(raw: dict[str, Any], head_dim: int) -> dict[str, Any]:
    found = rope_parameters(raw)
    kind = found["rope_type"]
    require(kind == "default", f"rope_type={kind!r}: a Phi's rotary positions are not scaled")
    rotary = int(head_dim * found.get("partial_rotary_factor", 0.5))
    if raw["model_type"] in OLD_TYPES:
        rotary = raw.get("rotary_dim", rotary)
    return {"rope_theta": found["rope_theta"], "rotary_dim": rotary}


def config_to_hf(config: PhiConfig) -> dict[str, Any]:
    """Return the contents of config.json, for transformers 4 and 5."""
    require(
        config.head_dim * config.num_heads == config.d_model,
        "transformers has no Phi whose heads are not d_model / num_heads wide",
    )
    part = config.rotary_dim / config.head_dim
    if int(config.head_dim * part) != config.rotary_dim:  # transformers truncates the product
        part = math.nextafter(part, 2)
    ends = list(config.eos_ids)
    return {
        **{theirs: getattr(config, ours) for theirs, ours in FIELDS.items()},
        "architectures": ["PhiForCausalLM"],
        "bos_token_id": config.bos_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "hidden_act": "gelu_new",
        "model_type": "phi",
        "partial_rotary_factor": part,
        "qk_layernorm": False,
        "rope_scaling": None,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": False,
    }


def table(config: PhiConfig) -> Table:
    """Return the table of tensors and parameters, by current names."""
    layers = [f"model.layers.{i}" for i in range(config.num_layers)]
    weights = {"embed_tokens/table": Weight(("model.embed_tokens.weight",))}
    weights |= files.norm("final_norm", ("model.final_layernorm",), True, stacked=False)
    weights |= files.linear("lm_head", ("lm_head",), True, stacked=False)
    names = tuple(f"{n}.input_layernorm" for n in layers)
    weights |= files.norm("blocks/input_layernorm", names, True)
    linears = [f"self_attn/{x}" for x in ("q_proj", "k_proj", "v_proj", "dense")]
    for path in (*linears, "mlp/fc1", "mlp/fc2"):
        names = tuple(f"{n}.{path.replace('/', '.')}" for n in layers)
        weights |= files.linear(f"blocks/{path}", names, True)
    unused = tuple(f"{n}.self_attn.rotary_emb.inv_freq" for n in layers)
    return Table(weights, unused)


def old_table(config: PhiConfig) -> Table:
    """Return the table by original names: queries, keys and values are in one tensor."""
    require(
        config.num_kv_heads == config.num_heads, "fused Wqkv with grouped keys is not supported"
    )
    layers = [f"transformer.h.{i}" for i in range(config.num_layers)]
    weights = {"embed_tokens/table": Weight((OLD_EMBEDDING,))}
    weights |= files.norm("final_norm", ("lm_head.ln",), True, stacked=False)
    weights |= files.linear("lm_head", ("lm_head.linear",), True, stacked=False)
    weights |= files.norm("blocks/input_layernorm", tuple(f"{n}.ln" for n in layers), True)
    fused = tuple(f"{n}.mixer.Wqkv" for n in layers)
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        weights |= files.linear(f"blocks/self_attn/{name}", fused, True, rows=(i, 3))
    names = {"self_attn/dense": "mixer.out_proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}
    for path, theirs in names.items():
        weights |= files.linear(f"blocks/{path}", tuple(f"{n}.{theirs}" for n in layers), True)
    unused = tuple(
        f"{n}.mixer.{x}" for n in layers for x in ("rotary_emb.inv_freq", "rotary_emb.scale")
    )
    return Table(weights, unused)


def table_of(config: PhiConfig, names: set[str]) -> Table:
    """Return the table for a directory's tensors, by the names that they have."""
    return old_table(config) if OLD_EMBEDDING in names else table(config)
