"""Funnel Transformers to and from Hugging Face directories: base, with a decoder, with a head."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from flaxae.errors import ConfigError, require
from flaxae.foreign_json import check_fields
from flaxae.lm import features, files
from flaxae.lm.funnel.config import AttentionType, FunnelConfig, Head, PoolingType
from flaxae.lm.funnel.modeling import Funnel
from flaxae.weights import hf
from flaxae.weights.hf import Table, Weight

PREFIX = "funnel."  # of the model's names in files of a model with a head
EMBEDDING = "embeddings.word_embeddings.weight"
MLM, DISCRIMINATOR = "lm_head", "discriminator_predictions"
# Hugging Face's fields -> ours, and values of fields that files may lack.
FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "d_inner": "d_ff",
    "n_head": "num_heads",
    "d_head": "d_head",
    "block_sizes": "block_sizes",
    "pool_q_only": "pool_q_only",
    "separate_cls": "separate_cls",
    "truncate_seq": "truncate_seq",
    "hidden_dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "layer_norm_eps": "norm_eps",
    "initializer_range": "initializer_range",
}
DEFAULTS = {
    "vocab_size": 30522,
    "d_model": 768,
    "d_inner": 3072,
    "n_head": 12,
    "d_head": 64,
    "block_sizes": (4, 4, 4),
    "num_decoder_layers": 2,
    "hidden_act": "gelu_new",
    "pooling_type": "mean",
    "attention_type": "relative_shift",
    "pool_q_only": True,
    "separate_cls": True,
    "truncate_seq": True,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "layer_norm_eps": 1e-9,
    "initializer_range": 0.1,
    "tie_word_embeddings": True,
}
OTHER_NAMES = {"hidden_size": "d_model", "num_attention_heads": "n_head"}
OPTIONS = {"pooling_type": PoolingType, "attention_type": AttentionType}
KINDS = {
    "hidden_size": int,
    "num_attention_heads": int,
    "block_sizes": list[int],
    "block_repeats": list[int],
    "num_decoder_layers": int,
    "pooling_type": str,
    "attention_type": str,
    "initializer_std": float,
}
CLASSES = {Head.MASKED_LM: "FunnelForMaskedLM", Head.DISCRIMINATOR: "FunnelForPreTraining"}


def config_from_hf(
    raw: dict[str, Any], *, decoder: bool = True, head: Head = Head.NONE
) -> FunnelConfig:
    """Convert a config.json.

    Args:
        raw: contents of config.json.
        decoder: whether the model has a decoder; config.json is the same for one without.
        head: the model's head.

    Returns:
        Our config; masks and padded states are pooled as transformers does.

    Raises:
        ConfigError: if the config is not that of a supported Funnel Transformer.
    """
    plain = {theirs: ours for theirs, ours in FIELDS.items() if theirs not in KINDS}
    files.check_kinds(raw, FunnelConfig, plain)
    check_fields(raw, KINDS)
    kind = raw.get("model_type") or "funnel"
    require(kind == "funnel", f"model_type={kind!r} is not funnel")
    raw = {k: v for k, v in raw.items() if v is not None}
    raw = DEFAULTS | {OTHER_NAMES[k]: raw[k] for k in OTHER_NAMES if k in raw} | raw
    act = raw["hidden_act"]
    require(act == "gelu_new", f"hidden_act={act!r}: only gelu_new is supported")
    for name, options in OPTIONS.items():
        known = [x.value for x in options]
        require(raw[name] in known, f"{name}={raw[name]!r} is not one of: {', '.join(known)}")
    layers = sum(raw["block_sizes"]) + raw["num_decoder_layers"]
    require(
        layers <= files.MAX_LAYERS, f"block_sizes: {layers} layers are above {files.MAX_LAYERS}"
    )
    fields = files.given(raw, FIELDS, "Funnel Transformer")
    fields["block_sizes"] = tuple(raw["block_sizes"])
    config = FunnelConfig(
        **fields,
        block_repeats=tuple(raw.get("block_repeats", ())),
        num_decoder_layers=raw["num_decoder_layers"] if decoder else 0,
        pooling_type=PoolingType(raw["pooling_type"]),
        attention_type=AttentionType(raw["attention_type"]),
        head=head,
        tie_embeddings=raw["tie_word_embeddings"],
        hf_compat_mask=True,
        embedding_std=raw.get("initializer_std", 1.0),
    )
    config.validate()
    features.check(
        raw,
        "Funnel Transformer",
        {theirs: (raw[ours],) for theirs, ours in OTHER_NAMES.items()}
        | {"is_encoder_decoder": (False,)},
    )
    return config


def config_to_hf(config: FunnelConfig) -> dict[str, Any]:
    """Return the contents of config.json, for transformers 4 and 5."""
    if config.head is not Head.NONE:
        kind = CLASSES[config.head]
    else:
        kind = "FunnelModel" if config.num_decoder_layers else "FunnelBaseModel"
    fields = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
    return fields | {
        "architectures": [kind],
        "attention_type": config.attention_type.value,
        "block_repeats": list(config.repeats),
        "block_sizes": list(config.block_sizes),
        "hidden_act": "gelu_new",
        # Other values than null also change how transformers draws the matrices of a new head.
        "initializer_std": None if config.embedding_std == 1 else config.embedding_std,
        "model_type": "funnel",
        "num_decoder_layers": config.num_decoder_layers or DEFAULTS["num_decoder_layers"],
        "pooling_type": config.pooling_type.value,
        "tie_word_embeddings": config.tie_embeddings,
    }


def table(config: FunnelConfig, prefix: str | None = None) -> Table:
    """Return the table of tensors and parameters.

    Args:
        config: config of the model.
        prefix: what the names of the model begin with; None: as transformers writes them.
    """
    if prefix is None:
        prefix = "" if config.head is Head.NONE else PREFIX
    weights = {"embeddings/tokens/table": Weight((prefix + EMBEDDING,))}
    norm = (f"{prefix}embeddings.layer_norm",)
    weights |= files.norm("embeddings/norm", norm, True, stacked=False)
    stacks = {
        f"encoder/blocks/{b}": [f"{prefix}encoder.blocks.{b}.{n}" for n in range(size)]
        for b, size in enumerate(config.block_sizes)
    }
    if config.num_decoder_layers:
        names = [f"{prefix}decoder.layers.{n}" for n in range(config.num_decoder_layers)]
        stacks["decoder/block"] = names
    for path, names in stacks.items():
        weights |= _layers(f"{path}/first", names[:1], stacked=False)
        if len(names) > 1:
            weights |= _layers(f"{path}/rest", names[1:], stacked=True)
    return Table(weights | _head(config, prefix))


def _layers(path: str, names: list[str], *, stacked: bool) -> dict[str, Weight]:
    """Return the entries of one layer, or of a stack of layers."""
    attention, mlp = f"{path}/attention", f"{path}/mlp"
    linears = {"q": ("q_head", False), "k": ("k_head", True), "v": ("v_head", True)}
    linears["o"] = ("post_proj", True)
    weights = {}
    for ours, (theirs, bias) in linears.items():
        their = tuple(f"{n}.attention.{theirs}" for n in names)
        weights |= files.linear(f"{attention}/{ours}", their, bias, stacked=stacked)
    plain = {
        "content_bias": "r_w_bias",
        "position_bias": "r_r_bias",
        "position_kernel": "r_kernel",
        "segment_bias": "r_s_bias",
        "segment_embedding": "seg_embed",
    }
    for ours, theirs in plain.items():
        their = tuple(f"{n}.attention.{theirs}" for n in names)
        weights[f"{attention}/{ours}"] = Weight(their, stacked=stacked)
    for ours, theirs in {"wi": "linear_1", "wo": "linear_2"}.items():
        their = tuple(f"{n}.ffn.{theirs}" for n in names)
        weights |= files.linear(f"{mlp}/{ours}", their, True, stacked=stacked)
    for ours, theirs in {attention: "attention", mlp: "ffn"}.items():
        their = tuple(f"{n}.{theirs}.layer_norm" for n in names)
        weights |= files.norm(f"{ours}/norm", their, True, stacked=stacked)
    return weights


def _head(config: FunnelConfig, prefix: str) -> dict[str, Weight]:
    """Return the entries of the head, and of the embedding that is tied to it."""
    if config.head is Head.DISCRIMINATOR:
        dense = files.linear("head/dense", (f"{DISCRIMINATOR}.dense",), True, stacked=False)
        out = (f"{DISCRIMINATOR}.dense_prediction",)
        return dense | files.linear("head/out", out, True, stacked=False)
    if config.head is not Head.MASKED_LM:
        return {}
    bias = {"head/bias": Weight((f"{MLM}.bias",))}
    matrix = f"{MLM}.weight"
    if config.tie_embeddings:
        tied = Weight((prefix + EMBEDDING,), aliases=(matrix,))
        return bias | {"embeddings/tokens/table": tied}
    return bias | {"head/proj/kernel": Weight((matrix,), transpose=True)}


def shapes(config: FunnelConfig) -> dict[str, Any]:
    """Return a nested dict of the parameters' ShapeDtypeStructs."""
    return files.shapes(Funnel, config)


def build(config: FunnelConfig, params: dict[str, Any]) -> Funnel:
    """Return the module with these parameters."""
    return files.build(Funnel, config, params)


def open_directory(
    source: str | Path, *, encoder_only: bool = False
) -> tuple[FunnelConfig, hf.Tensors, Table]:
    """Open a directory or Hub id; no tensor is read yet.

    Args:
        source: a directory, or a Hub id.
        encoder_only: leave out a decoder and a head; `Table.unused` names their tensors.

    Returns:
        The config, the tensors, and the table of what is read.

    Raises:
        ConfigError: if the files are not a Funnel Transformer's.
    """
    directory = hf.resolve(source)
    raw, tensors = hf.read_model_config(directory), hf.Tensors(directory)
    names = tensors.names
    prefix = PREFIX if any(n.startswith(PREFIX) for n in names) else ""
    decoder = [n for n in names if n.startswith(f"{prefix}decoder.")]
    head = Head.NONE
    if f"{MLM}.bias" in names:
        head = Head.MASKED_LM
    elif any(n.startswith(f"{DISCRIMINATOR}.") for n in names):
        head = Head.DISCRIMINATOR
    try:
        if encoder_only:
            config = config_from_hf(raw, decoder=False)
            known = (f"{MLM}.", f"{DISCRIMINATOR}.")
            heads = {n for n in names if not n.startswith(prefix) or n.startswith(known)}
            unused = tuple(sorted(heads | set(decoder)))
            return config, tensors, dataclasses.replace(table(config, prefix), unused=unused)
        config = config_from_hf(raw, decoder=bool(decoder), head=head)
    except ConfigError as error:
        raise ConfigError(f"{directory / hf.CONFIG}: {error}") from None
    return config, tensors, table(config, prefix)


def load(
    source: str | Path, dtype: Any = jnp.float32, *, encoder_only: bool = False
) -> tuple[FunnelConfig, dict[str, Any]]:
    """Read a Funnel Transformer onto the default device.

    Args:
        source: a directory, or a Hub id.
        dtype: dtype of the parameters.
        encoder_only: leave out a decoder and a head.

    Returns:
        The config and the parameters, a nested dict.

    Raises:
        ConfigError: if the files are not a Funnel's, or have missing or unexpected tensors.
    """
    config, tensors, named = open_directory(source, encoder_only=encoder_only)
    return config, hf.read_params(tensors, named, shapes(config), dtype=dtype)


def save(
    directory: str | Path,
    params: dict[str, Any],
    config: FunnelConfig,
    *,
    dtype: Any = jnp.float32,
    max_shard_size: int = 5 * 10**9,
) -> None:
    """Write a directory that `transformers` opens as the same model.

    Args:
        directory: created if it does not exist; files written earlier are replaced.
        params: nested dict of arrays, as `load` returns them.
        config: config of the model.
        dtype: dtype of the stored tensors.
        max_shard_size: bytes per file, see `hf.write`.
    """
    raw = config_to_hf(config)
    files.save(directory, raw, table(config), params, dtype, max_shard_size)
