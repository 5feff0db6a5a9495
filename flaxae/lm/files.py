"""Modules from parameters, and directories of decoder-only models: shared by their `params.py`."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from flaxae.config import Section, field_types
from flaxae.errors import require
from flaxae.foreign_json import check_fields
from flaxae.machine import sharding
from flaxae.weights import hf
from flaxae.weights.hf import Weight

# Types of fields of config.json that no field of ours has under another name.
KINDS = {
    "model_type": str,
    "hidden_act": str,
    "tie_word_embeddings": bool,
    "bos_token_id": int,
    "eos_token_id": int | list[int],
    "rope_theta": float,
    "rope_scaling": dict,
    "rope_parameters": dict,
    "partial_rotary_factor": float,
    "head_dim": int,
}
ROPE_FIELDS = ("rope_scaling", "rope_parameters")
ROPE_KINDS = {
    "rope_type": str,
    "type": str,
    "rope_theta": float,
    "factor": float,
    "partial_rotary_factor": float,
    "low_freq_factor": float,
    "high_freq_factor": float,
    "original_max_position_embeddings": int,
}
MAX_LAYERS, MAX_SIZE = 2**12, 2**31 - 1  # no model has more


def shapes(kind: Any, config: Any) -> dict[str, Any]:
    """Return a nested dict of the parameters' ShapeDtypeStructs.

    Args:
        kind: the model's class.
        config: the model's config.
    """
    return nnx.to_pure_dict(nnx.state(_abstract(kind, config)))  # pyright: ignore


def build(kind: Any, config: Any, params: dict[str, Any]) -> Any:
    """Return the module with these parameters."""
    graphdef, state = nnx.split(_abstract(kind, config))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graphdef, state)


def _abstract(kind: Any, config: Any) -> Any:
    return nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0)))


def read(
    kind: Any,
    config: Any,
    table: hf.Table,
    tensors: hf.TensorSource,
    dtype: Any = jnp.float32,
    mesh: Mesh | None = None,
    rules: tuple = (),
) -> dict[str, Any]:
    """Read a model's parameters.

    Args:
        kind: the model's class.
        config: the model's config.
        table: the tensors of each parameter.
        tensors: the tensors of its files.
        dtype: dtype of the parameters.
        mesh: the devices; each process reads only the slices that its devices hold. None: the
            default device.
        rules: sharding rules, see `sharding.infer_sharding`.
    """
    wanted = shapes(kind, config)
    places = None if mesh is None else sharding.infer_sharding(wanted, mesh, rules)
    return hf.read_params(tensors, table, wanted, places, dtype)


def save(
    directory: str | Path,
    raw: dict[str, Any],
    table: hf.Table,
    params: dict[str, Any],
    dtype: Any = jnp.float32,
    max_shard_size: int = 5 * 10**9,
) -> None:
    """Write a directory that `transformers` opens as the same model.

    Args:
        directory: created if it does not exist.
        raw: contents of config.json, without the dtype.
        table: the tensors of each parameter.
        params: nested dict of arrays.
        dtype: dtype of the stored tensors.
        max_shard_size: bytes per file, see `hf.write`.
    """
    raw = raw | {"dtype": jnp.dtype(dtype).name}
    hf.write(directory, raw, table, params, dtype=dtype, max_shard_size=max_shard_size)


def linear(
    path: str,
    names: tuple[str, ...],
    bias: bool,
    *,
    stacked: bool = True,
    rows: tuple[int, int] = (0, 1),
) -> dict[str, Weight]:
    """Return the table's entries of a Linear.

    Args:
        path: path of our module.
        names: Hugging Face's names of the module: one, or one per layer.
        bias: the Linear has a bias.
        stacked: the first axis of our parameters is the layers.
        rows: see Weight.
    """
    weights = {"kernel": ("weight", True)} | ({"bias": ("bias", False)} if bias else {})
    return {
        f"{path}/{ours}": Weight(
            tuple(f"{n}.{theirs}" for n in names), stacked=stacked, transpose=matrix, rows=rows
        )
        for ours, (theirs, matrix) in weights.items()
    }


def norm(path: str, names: tuple[str, ...], bias: bool, *, stacked: bool = True) -> dict[str, Any]:
    """Return the table's entries of a norm; see `linear`."""
    weights = {"scale": "weight"} | ({"bias": "bias"} if bias else {})
    return {
        f"{path}/{ours}": Weight(tuple(f"{n}.{theirs}" for n in names), stacked=stacked)
        for ours, theirs in weights.items()
    }


def check_kinds(raw: dict[str, Any], config: type[Section], fields: dict[str, str]) -> None:
    """Raise ConfigError for a field of a config.json that has another type than ours has.

    Args:
        raw: contents of config.json.
        config: our config's class.
        fields: Hugging Face's names -> ours.
    """
    ours = field_types(config)
    check_fields(raw, KINDS | {theirs: ours[name] for theirs, name in fields.items()})
    for name in ROPE_FIELDS:
        check_fields(raw.get(name) or {}, ROPE_KINDS, f"{name}: ")
    for theirs, name in fields.items():
        value = raw.get(theirs)
        if ours[name] is int and value is not None:
            most = MAX_LAYERS if "layers" in name else MAX_SIZE
            require(value <= most, f"{theirs}={value} is above {most}")


def given(raw: dict[str, Any], fields: dict[str, str], what: str) -> dict[str, Any]:
    """Return fields of a config.json by our names.

    Args:
        raw: contents of config.json, defaults included.
        fields: Hugging Face's names -> ours.
        what: the kind of model, for the error.

    Raises:
        ConfigError: if a field is missing.
    """
    missing = [name for name in fields if raw.get(name) is None]
    require(not missing, f"the config of this {what} lacks {', '.join(missing)}")
    return {ours: raw[theirs] for theirs, ours in fields.items()}


def token_ids(raw: dict[str, Any], bos: int, eos: int) -> dict[str, Any]:
    """Return bos_id and eos_ids of a config.json, which may have several of the latter.

    Args:
        raw: contents of config.json.
        bos: default of bos_token_id.
        eos: default of eos_token_id.
    """
    ends = raw.get("eos_token_id")
    ends = eos if ends is None else ends
    begin = raw.get("bos_token_id")
    return {
        "bos_id": bos if begin is None else begin,
        "eos_ids": tuple(ends) if isinstance(ends, (list, tuple)) else (ends,),
    }
