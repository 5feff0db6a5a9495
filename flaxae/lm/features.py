"""Fields of config.json that change what a model computes and that no model here has.

Other architectures have them, and some checkpoints add them to a Llama, a Phi or a T5. A field that
is not at a value which changes nothing is an error: without it the model would compute something
else. The names are those of the configs of transformers.
"""

import math
from collections.abc import Mapping
from typing import Any

from flaxae.errors import require

# Features that are off if the field is null, false, 0 or empty.
OFF = (
    "activation_sparsity_pattern",
    "add_cross_attention",
    "alibi",
    "attention_chunk_size",
    "attention_k_eq_v",
    "attention_logit_cap",
    "attn_logit_softcapping",
    "attn_temperature_tuning",
    "clip_qkv",
    "cross_attention_layers",
    "final_logit_softcapping",
    "global_rope_theta",
    "kv_lora_rank",
    "layer_rope_theta",
    "local_rope_theta",
    "logits_soft_cap",
    "moe_layers",
    "multi_query",
    "n_routed_experts",
    "new_decoder_architecture",
    "no_rope_layer_interval",
    "num_experts",
    "num_kv_shared_layers",
    "num_local_experts",
    "parallel_attn",
    "pruned_heads",
    "q_lora_rank",
    "qk_layernorm",
    "qk_ln",
    "qk_norm",
    "rope_interleave",
    "rope_interleaved",
    "rope_local_base_freq",
    "rotary_interleaved",
    "scale_depth",
    "tie_encoder_decoder",
    "use_alibi",
    "use_bidirectional_attention",
    "use_mup",
    "use_parallel_residual",
    "use_qk_norm",
)
# Fields with the values at which they change nothing; of a list, all items must be one of them.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "embedding_multiplier": (1,),
    "is_causal": (True,),
    "layer_types": ("full_attention",),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mlp_layer_types": ("dense",),
    "no_rope_layers": (1,),
    "residual_multiplier": (1,),
    "scale_emb": (1,),
}


def check(raw: Mapping[str, Any], what: str, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise ConfigError for a field that changes what the model computes and is not supported.

    Args:
        raw: contents of config.json.
        what: the kind of model, for the message.
        neutral: further fields with the values at which they change nothing, which follow from the
            model's sizes; other names of fields that are read, with the value that was read.
    """
    allowed = {name: (False,) for name in OFF} | NEUTRAL | dict(neutral)
    for name, values in allowed.items():
        value = raw.get(name)
        if value is None or (isinstance(value, (list, dict, str)) and not value):
            continue
        items = value if isinstance(value, list) else [value]
        right = all(any(_equal(x, one) for one in values) for x in items)
        only = "" if values == (False,) else f" (only {' or '.join(map(str, values))})"
        require(right, f"{name}={value!r} changes what a {what} computes: not supported{only}")
    window = raw.get("sliding_window") if raw.get("use_sliding_window") is not False else None
    length = raw.get("max_position_embeddings")
    short = isinstance(window, (int, float)) and window and window < (length or math.inf)
    require(
        not short,
        f"sliding_window={window}, shorter than max_position_embeddings={length}, changes what a "
        f"{what} computes: not supported",
    )


def _equal(value: Any, other: Any) -> bool:
    numbers = isinstance(value, (int, float)) and isinstance(other, (int, float))
    return math.isclose(value, other, rel_tol=1e-6) if numbers else value == other


def rotary(head_dim: int, rotated: int, theta: float) -> dict[str, tuple[Any, ...]]:
    """Return other names of the fields of rotary positions and of heads, for `check`.

    Args:
        head_dim: features per head.
        rotated: rotated features per head.
        theta: base of the wave lengths.
    """
    part = {name: (rotated / head_dim,) for name in ("rotary_pct", "rope_pct", "rotary_percent")}
    base = {name: (theta,) for name in ("rope_base", "rotary_base", "rotary_emb_base")}
    width = {name: (head_dim,) for name in ("kv_channels", "v_head_dim", "query_pre_attn_scalar")}
    scale = {name: (head_dim**-0.5,) for name in ("attention_multiplier", "attn_scale")}
    return part | base | width | scale | {"rotary_dim": (rotated,)}


def same(names: tuple[str, ...], value: Any) -> dict[str, tuple[Any, ...]]:
    """Return other names of a field with the value that was read, for `check`."""
    return {name: (value,) for name in names}
