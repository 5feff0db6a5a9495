"""The fields of a GGUF header: those that are used, are harmless, or must be off.

A field that is none of these raises an error, so that no field which changes what a model computes
is ignored. The names are those of `gguf.constants.Keys` and llama.cpp's `llama-arch.cpp`.
"""

from collections.abc import Iterable
from typing import Any

# Fields after "llama." that `config` reads.
USED = {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.type",
    "vocab_size",
}
# Fields after "llama." that do not change what a Llama computes: the kinds of scaling that read
# the original length and YaRN's betas are refused by their type.
HARMLESS = {
    "pooling_type",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
# Fields after "llama." with the values at which they change nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.output_scale": (0, 1),
    "embedding_scale": (0, 1),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "rope.scaling.alpha": (0, 1),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": (0, -1),
    "tensor_data_layout": ("reference", "Meta AI original pth"),
}
# Fields after "llama." that are off at 0.
OFF = {
    "activation_sparsity_scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attention.shared_kv_layers",
    "attention.temperature_length",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "expert_count",
    "expert_group_count",
    "expert_group_used_count",
    "expert_shared_count",
    "expert_used_count",
    "final_logit_softcapping",
    "leading_dense_block_count",
    "nextn_predict_layers",
    "router_logit_softcapping",
    "swin_norm",
    "use_parallel_residual",
}
# Fields after "tokenizer.ggml." that `tokenizer` and `config` read.
TOKENIZER_USED = {
    "add_bos_token",
    "add_eos_token",
    "add_space_prefix",
    "bos_token_id",
    "eom_token_id",
    "eos_token_id",
    "eot_token_id",
    "merges",
    "model",
    "pre",
    "token_type",
    "tokens",
}
# A byte-level BPE has no scores, token types or normalisation; other tokens are named by none.
TOKENIZER_HARMLESS = {
    "cls_token_id",  # of older files
    "fim_mid_token_id",
    "fim_pad_token_id",
    "fim_pre_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
    "fim_suf_token_id",
    "mask_token_id",
    "middle_token_id",
    "padding_token_id",
    "precompiled_charsmap",
    "prefix_token_id",
    "remove_extra_whitespaces",
    "scores",
    "seperator_token_id",
    "suffix_token_id",
    "token_type_count",
    "unknown_token_id",
}
TOKENIZER_OFF = {"add_sep_token"}
# Prefixes of files that are no language models, and of other activations.
FOREIGN = ("adapter.", "clip.", "diffusion.", "imatrix.", "xielu.")


def unsupported(architecture: str, names: Iterable[str], value: Any) -> list[str]:
    """Return "NAME=VALUE" for fields that change what the model computes and are not supported.

    Args:
        architecture: the prefix of the model's fields.
        names: names of all fields of the header.
        value: function from a field's name to its value.
    """
    out = []
    for name in names:
        _, _, end = name.partition(f"{architecture}.")
        if name.startswith(f"{architecture}."):
            known = end in USED | HARMLESS
            off = end in NEUTRAL.keys() | OFF and value(name) in NEUTRAL.get(end, (0,))
            out += [] if known or off else [name]
        elif name.startswith(FOREIGN):
            out.append(name)
    return [f"{name}={short(value(name))}" for name in out]


def unsupported_by_tokenizer(names: Iterable[str], value: Any) -> list[str]:
    """Return "NAME=VALUE" for fields that change what a byte-level BPE does; see `unsupported`."""
    out = []
    for name in names:
        head, _, end = name.partition("tokenizer.ggml.")
        if head or not end or end in TOKENIZER_USED | TOKENIZER_HARMLESS:
            continue
        if end not in TOKENIZER_OFF or value(name):
            out.append(f"{name}={short(value(name))}")
    return out


def short(value: Any) -> str:
    """Return a value as a message shows it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
