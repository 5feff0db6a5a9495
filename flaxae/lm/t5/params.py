"""T5 to and from Hugging Face directories: v1.0, v1.1, Flan, mT5, byT5, UL2."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from flaxae.errors import ConfigError, require
from flaxae.foreign_json import check_fields
from flaxae.lm import features, files
from flaxae.lm.t5.blocks import T5Config
from flaxae.lm.t5.modeling import EOS, PAD, T5
from flaxae.nn.mlp import FeedForward
from flaxae.weights import hf
from flaxae.weights.hf import Table, Weight

SHARED, HEAD = "shared.weight", "lm_head.weight"
ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# v1.0's files contain a bias of cross-attention, which the model does not use.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
MODELS = {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration"}
# Hugging Face's fields -> ours.
FIELDS = {
    "d_model": "d_model",
    "d_ff": "d_ff",
    "d_kv": "d_kv",
    "num_heads": "num_heads",
    "num_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "vocab_size": "vocab_size",
    "relative_attention_num_buckets": "relative_buckets",
    "relative_attention_max_distance": "relative_max_distance",
    "layer_norm_epsilon": "norm_eps",
    "dropout_rate": "dropout",
}
# Values of fields that older files lack.
DEFAULTS = {
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
}
# Names by which transformers reads some fields too.
ATTRIBUTES = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}
KINDS = {"feed_forward_proj": str, "scale_decoder_outputs": bool}
IDS = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD}


def config_from_hf(raw: dict[str, Any], tied: bool | None = None) -> T5Config:
    """Convert a config.json.

    Args:
        raw: contents of config.json.
        tied: whether the head is tied to the embedding; None: `tie_word_embeddings` decides, which
            is unreliable: transformers 5 writes true there for every T5.

    Returns:
        Our config.

    Raises:
        ConfigError: if the config is not that of a supported T5.
    """
    files.check_kinds(raw, T5Config, FIELDS)
    check_fields(raw, dict.fromkeys(IDS, int) | KINDS)
    kind = raw.get("model_type") or "t5"
    require(kind in MODELS, f"model_type={kind!r} is not one of: {', '.join(MODELS)}")
    forward = raw.get("feed_forward_proj") or ("relu" if kind == "t5" else "gated-gelu")
    known = {x.value: x for x in FeedForward}
    require(forward in known, f"feed_forward_proj={forward!r} is not one of: {', '.join(known)}")
    for name, value in IDS.items():
        require(
            raw.get(name) in (value, None), f"{name}={raw.get(name)}: only {value} is supported"
        )
    raw = {**DEFAULTS, "num_decoder_layers": raw.get("num_layers"), **_given(raw)}
    missing = [name for name in FIELDS if raw.get(name) is None]
    require(not missing, f"config.json lacks {', '.join(missing)}")
    untied = raw.get("tie_word_embeddings") is False
    tied = not untied if tied is None else tied
    # As in transformers: tie_word_embeddings, or scale_decoder_outputs in version 5, marks a v1.0,
    # which scales the head's input. An mT5 never does.
    scaled = kind == "t5" and raw.get("scale_decoder_outputs", not untied)
    if scaled and not tied:
        raise ConfigError(
            f"the head ({HEAD}) is untied and its input is scaled by d_model ** -0.5: no published "
            "T5 has both; set tie_word_embeddings to false in config.json, or remove the head"
        )
    config = T5Config(
        **{ours: raw[theirs] for theirs, ours in FIELDS.items()},
        feed_forward=known[forward],
        tie_embeddings=tied,
        scale_tied_head=scaled if tied else True,
    )
    config.validate()
    gated = forward.startswith("gated-")
    names = {forward.removeprefix("gated-")} | ({"gelu_new"} if forward == "gated-gelu" else set())
    features.check(
        raw,
        "T5",
        {"dense_act_fn": tuple(sorted(names)), "is_gated_act": (gated,)}
        | {theirs: (raw[ours],) for theirs, ours in ATTRIBUTES.items()}
        | {"is_encoder_decoder": (True,)},
    )
    return config


def _given(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are not null."""
    return {name: value for name, value in raw.items() if value is not None}


def config_to_hf(config: T5Config, model_type: str = "t5") -> dict[str, Any]:
    """Return the contents of config.json, for transformers 4 and 5.

    Args:
        config: our config.
        model_type: "t5", or "mt5" for a model that came from an mT5.

    Raises:
        ConfigError: if an mT5 cannot have these options.
    """
    scaled = config.tie_embeddings and config.scale_tied_head
    require(model_type in MODELS, f"model_type={model_type!r} is not one of: {', '.join(MODELS)}")
    require(
        model_type == "t5" or not scaled,
        "an mT5 does not scale the head's input: save it with model_type='t5'",
    )
    return {
        **{theirs: getattr(config, ours) for theirs, ours in FIELDS.items()},
        **IDS,
        "architectures": [MODELS[model_type]],
        "feed_forward_proj": config.feed_forward.value,
        "is_encoder_decoder": True,
        "model_type": model_type,
        "scale_decoder_outputs": scaled,
        "tie_word_embeddings": config.tie_embeddings,
    }


def table(config: T5Config) -> Table:
    """Return the table of tensors and parameters."""
    weights = {"embedding/table": Weight((SHARED,), aliases=ALIASES)}
    if config.tie_embeddings:
        weights["embedding/table"] = Weight((SHARED,), aliases=(*ALIASES, HEAD))
    else:
        weights["head/kernel"] = Weight((HEAD,), transpose=True)
    mlp = ("wi", "wo") if config.feed_forward is FeedForward.RELU else ("wi_0", "wi_1", "wo")
    stacks = (
        ("encoder", config.num_layers, {"attention": "SelfAttention"}),
        (
            "decoder",
            config.num_decoder_layers,
            {"attention": "SelfAttention", "cross": "EncDecAttention"},
        ),
    )
    for stack, layers, attentions in stacks:
        inner = {}  # path in a block -> (Hugging Face's name in a block, whether it is a matrix)
        for i, (ours, theirs) in enumerate(attentions.items()):
            inner[f"{ours}_norm/scale"] = (f"{i}.layer_norm", False)
            inner |= {f"{ours}/{x}/kernel": (f"{i}.{theirs}.{x}", True) for x in "qkvo"}
        i = len(attentions)
        inner["mlp_norm/scale"] = (f"{i}.layer_norm", False)
        inner |= {f"mlp/{x}/kernel": (f"{i}.DenseReluDense.{x}", True) for x in mlp}
        for path, (name, matrix) in inner.items():
            names = tuple(f"{stack}.block.{n}.layer.{name}.weight" for n in range(layers))
            weights[f"{stack}/blocks/{path}"] = Weight(names, stacked=True, transpose=matrix)
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        weights[f"{stack}/relative_bias/table"] = Weight((bias,))
        weights[f"{stack}/final_norm/scale"] = Weight((f"{stack}.final_layer_norm.weight",))
    return Table(weights, UNUSED)


def shapes(config: T5Config) -> dict[str, Any]:
    """Return a nested dict of the parameters' ShapeDtypeStructs."""
    return files.shapes(T5, config)


def build(config: T5Config, params: dict[str, Any]) -> T5:
    """Return the module with these parameters."""
    return files.build(T5, config, params)


def open_directory(source: str | Path) -> tuple[T5Config, hf.Tensors]:
    """Return the config and the tensors of a directory or Hub id; no tensor is read yet."""
    directory = hf.resolve(source)
    raw, tensors = hf.read_model_config(directory), hf.Tensors(directory)
    if HEAD not in tensors.names:
        # With an untied config the head is missing, and read_params says so.
        tied = raw.get("tie_word_embeddings") is not False
    elif raw.get("tie_word_embeddings") is False:
        tied = False
    else:
        tied = SHARED in tensors.names and tensors.same(HEAD, SHARED)
    try:
        return config_from_hf(raw, tied), tensors
    except ConfigError as error:
        raise ConfigError(f"{directory / hf.CONFIG}: {error}") from None


def load(source: str | Path, dtype: Any = jnp.float32) -> tuple[T5Config, dict[str, Any]]:
    """Read a T5 onto the default device.

    Args:
        source: a directory, or a Hub id.
        dtype: dtype of the parameters.

    Returns:
        The config and the parameters, a nested dict.

    Raises:
        ConfigError: if the files are not a T5's, or have missing or unexpected tensors.
    """
    config, tensors = open_directory(source)
    return config, hf.read_params(tensors, table(config), shapes(config), dtype=dtype)


def save(
    directory: str | Path,
    params: dict[str, Any],
    config: T5Config,
    *,
    dtype: Any = jnp.float32,
    max_shard_size: int = 5 * 10**9,
    model_type: str = "t5",
) -> None:
    """Write a directory that `transformers` opens as the same T5.

    Args:
        directory: created if it does not exist; files written earlier are replaced.
        params: nested dict of arrays, as `load` returns them.
        config: config of the model.
        dtype: dtype of the stored tensors.
        max_shard_size: bytes per file, see `hf.write`.
        model_type: see `config_to_hf`.
    """
    raw = config_to_hf(config, model_type)
    raw["dtype"] = jnp.dtype(dtype).name
    hf.write(directory, raw, table(config), params, dtype=dtype, max_shard_size=max_shard_size)


def differences(have: T5Config, want: T5Config) -> list[str]:
    """Return a line "field: value, not value" for each field that changes parameters or results."""
    free = {"dropout", "dtype", "remat", "remat_keep", "scan_unroll"}
    if not (have.tie_embeddings and want.tie_embeddings):
        free.add("scale_tied_head")
    names = [f.name for f in dataclasses.fields(T5Config) if f.name not in free]
    pairs = [(n, getattr(have, n), getattr(want, n)) for n in names]
    return [f"{n}: {a}, not {b}" for n, a, b in pairs if a != b]
