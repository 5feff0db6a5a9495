"""T5 from and to Hugging Face directories: v1.0, v1.1, Flan, mT5, byT5, UL2."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from flaxae.errors import ConfigError, require
from flaxae.lm.t5.blocks import T5Config
from flaxae.lm.t5.modeling import EOS, PAD, T5
from flaxae.machine import sharding
from flaxae.nn.mlp import FeedForward
from flaxae.weights import hf
from flaxae.weights.hf import Table, Weight

SHARED, HEAD = "shared.weight", "lm_head.weight"
ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# v1.0's files carry a bias of cross-attention, which has none.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
MODELS = {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration"}
# Theirs -> ours: numbers that mean the same.
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
# What older files leave out.
DEFAULTS = {
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
}
IDS = {"pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD}


def config_from_hf(raw: dict[str, Any], tied: bool | None = None) -> T5Config:
    """Our config of a config.json.

    Args:
        raw: what config.json holds.
        tied: whether the head is the embedding; None: as `tie_word_embeddings` says. The files
            know better: transformers 5 writes true there for every T5.

    Raises:
        ConfigError: it is no T5, or one that this code does not compute.
    """
    kind = raw.get("model_type", "t5")
    require(kind in MODELS, f"model_type={kind!r} is not one of: {', '.join(MODELS)}")
    forward = raw.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")
    known = {x.value: x for x in FeedForward}
    require(forward in known, f"feed_forward_proj={forward!r} is not one of: {', '.join(known)}")
    for name, value in IDS.items():
        require(raw.get(name, value) == value, f"{name}={raw.get(name)}: only {value} is supported")
    raw = {**DEFAULTS, "num_decoder_layers": raw.get("num_layers"), **_given(raw)}
    missing = [name for name in FIELDS if raw.get(name) is None]
    require(not missing, f"config.json lacks {', '.join(missing)}")
    untied = raw.get("tie_word_embeddings") is False
    tied = not untied if tied is None else tied
    # transformers: v1.0 is told by tie_word_embeddings, or by what version 5 made of it; mT5 never.
    scaled = kind == "t5" and raw.get("scale_decoder_outputs", not untied)
    if scaled and not tied:
        raise ConfigError(
            f"the head ({HEAD}) is its own, and its input is scaled by d_model ** -0.5: no "
            "published T5 has both; set tie_word_embeddings to false in config.json or drop it"
        )
    config = T5Config(
        **{ours: raw[theirs] for theirs, ours in FIELDS.items()},
        feed_forward=known[forward],
        tie_embeddings=tied,
        scale_tied_head=scaled if tied else True,
    )
    config.validate()
    return config


def _given(raw: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if value is not None}


def config_to_hf(config: T5Config, model_type: str = "t5") -> dict[str, Any]:
    """The config.json of a config, for transformers 4 and 5.

    Args:
        config: ours.
        model_type: "t5", or "mt5" for what came from an mT5.
    """
    scaled = config.tie_embeddings and config.scale_tied_head
    require(model_type in MODELS, f"model_type={model_type!r} is not one of: {', '.join(MODELS)}")
    require(model_type == "t5" or not scaled, "an mT5 scales no head: save it as model_type t5")
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
    """Which tensor fills which parameter."""
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
        inner = {}  # path in a block -> (their name in a block, whether it is a matrix)
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
    """Nested dict of the parameters' ShapeDtypeStructs."""
    return nnx.to_pure_dict(nnx.state(_abstract(config)))  # pyright: ignore


def build(config: T5Config, params: dict[str, Any]) -> T5:
    """The module of these parameters."""
    graphdef, state = nnx.split(_abstract(config))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graphdef, state)


def _abstract(config: T5Config) -> T5:
    return nnx.eval_shape(lambda: T5(config, rngs=nnx.Rngs(0)))


def open_directory(source: str | Path) -> tuple[T5Config, hf.Tensors]:
    """The config and the tensors of a directory or Hub id; no tensor is read yet."""
    directory = hf.resolve(source)
    raw, tensors = hf.read_config(directory), hf.Tensors(directory)
    if HEAD not in tensors.names:
        # Only an untied config says that something is missing; read_params then names it.
        tied = raw.get("tie_word_embeddings") is not False
    elif raw.get("tie_word_embeddings") is False:
        tied = False
    else:
        tied = SHARED in tensors.names and tensors.same(HEAD, SHARED)
    try:
        return config_from_hf(raw, tied), tensors
    except ConfigError as error:
        raise ConfigError(f"{directory}: {error}") from None


def load(source: str | Path, dtype: Any = jnp.float32) -> tuple[T5Config, dict[str, Any]]:
    """A T5's config and parameters, on the default device.

    Args:
        source: a directory, or a Hub id.
        dtype: of the parameters.

    Raises:
        ConfigError: it is no T5, or not exactly one.
    """
    config, tensors = open_directory(source)
    return config, hf.read_params(tensors, table(config), shapes(config), dtype=dtype)


def load_sharded(
    source: str | Path, mesh: Mesh, rules: tuple = (), dtype: Any = jnp.float32
) -> tuple[T5Config, dict[str, Any]]:
    """The same over a mesh: each process reads only the slices that its devices hold.

    Args:
        source: a directory, or a Hub id.
        mesh: see `sharding.make_mesh`.
        rules: see `sharding.infer_sharding`.
        dtype: of the parameters.
    """
    config, tensors = open_directory(source)
    wanted = shapes(config)
    places = sharding.infer_sharding(wanted, mesh, rules)
    return config, hf.read_params(tensors, table(config), wanted, places, dtype)


def save(
    directory: str | Path,
    params: dict[str, Any],
    config: T5Config,
    *,
    dtype: Any = jnp.float32,
    max_shard_size: int = 5 * 10**9,
    model_type: str = "t5",
) -> None:
    """Writes a directory that `transformers` opens as the same T5.

    Args:
        directory: where to; files of an earlier saving are replaced.
        params: as `load` gives them.
        config: of the parameters.
        dtype, max_shard_size: see `hf.write`.
        model_type: see `config_to_hf`.
    """
    raw = config_to_hf(config, model_type)
    raw["dtype"] = jnp.dtype(dtype).name
    hf.write(directory, raw, table(config), params, dtype=dtype, max_shard_size=max_shard_size)


def differences(have: T5Config, want: T5Config) -> list[str]:
    """Lines "field: value, not value" of what makes parameters or results of two T5s differ."""
    free = {"dropout", "dtype", "remat", "remat_keep", "scan_unroll"}
    if not (have.tie_embeddings and want.tie_embeddings):
        free.add("scale_tied_head")
    names = [f.name for f in dataclasses.fields(T5Config) if f.name not in free]
    pairs = [(n, getattr(have, n), getattr(want, n)) for n in names]
    return [f"{n}: {a}, not {b}" for n, a, b in pairs if a != b]
