"""SAELens' files: cfg.json and sae_weights.safetensors (format of version 6; older ones are read).

Architectures that SAELens opens for inference: standard, topk, jumprelu, gated, and transcoders
with ReLU or JumpReLU, with and without a skip connection.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.errors import ConfigError, require
from flaxae.foreign_json import check_fields, read_json
from flaxae.sparse_autoencoder import folding, saelens_scaler
from flaxae.sparse_autoencoder.modules import (
    Activation,
    Normaliser,
    SAEConfig,
    SparseAutoencoder,
)
from flaxae.sparse_autoencoder.origin import Origin, hugging_face_name, lens_name, parse_hook
from flaxae.sparse_autoencoder.parameters import build, values
from flaxae.sparse_autoencoder.tensors import read_safetensors, write_safetensors
from flaxae.storage.paths import write_text

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"  # the version whose format is written; below 6, a converter cuts the metadata

# architecture -> (activation, transcoder, skip)
READ = {
    "standard": (Activation.RELU, False, False),
    "topk": (Activation.TOPK, False, False),
    "jumprelu": (Activation.JUMPRELU, False, False),
    "gated": (Activation.GATED, False, False),
    "transcoder": (Activation.RELU, True, False),
    "skip_transcoder": (Activation.RELU, True, True),
    "jumprelu_transcoder": (Activation.JUMPRELU, True, False),
    "jumprelu_skip_transcoder": (Activation.JUMPRELU, True, True),
}
WRITTEN = {value: name for name, value in READ.items()}
# "hook_z": states of attention heads. SAELens has the heads as an axis of their own; here they are
# one after another in the features.
RESHAPED = ("none", "hook_z")
# names of their tensors -> ours
NAMES = {
    "W_enc": "w_enc",
    "W_dec": "w_dec",
    "b_enc": "b_enc",
    "b_dec": "b_dec",
    "b_mag": "b_mag",
    "r_mag": "r_mag",
    "threshold": "threshold",
    "W_skip": "w_skip",
}
_KINDS = {
    "d_in": int,
    "d_sae": int,
    "d_out": int,
    "architecture": str,
    "apply_b_dec_to_input": bool,
    "normalize_activations": str | bool,
    "reshape_activations": str,
    "k": int | float,
    "rescale_acts_by_decoder_norm": bool,
    "metadata": dict,
}
_METADATA = {
    "model_name": str,
    "hook_name": str,
    "hook_name_out": str,
    "hook_layer": int,
    "context_size": int,
    "prepend_bos": bool,
    "flaxae": dict,
}
_OWN = {
    "model": str,
    "fingerprint": str,
    "hook": str,
    "layer": int,
    "hook_out": str,
    "layer_out": int,
    "factor": int | float,
    "factor_out": int | float,
    "normaliser": str,
    "context_size": int,
    "prepend_bos": bool,
    "skip_first": int,
}
_WRITTEN_ANEW = ("sae_lens_version", "sae_lens_training_version", "hf_hook_name")


def read(directory: Path) -> tuple[SparseAutoencoder, Origin]:
    """Read a directory that SAELens wrote.

    Raises:
        ConfigError: if a file is missing or broken, the architecture or a field is unknown, or a
            tensor is missing or unexpected.
    """
    path = directory / CONFIG
    require(path.is_file(), f"{directory}: {CONFIG} is missing, without which {WEIGHTS} is unclear")
    raw = _current(read_json(path))
    check_fields(raw, _KINDS, f"{path}: ")
    config, pending = _config(raw, path)
    tensors = read_safetensors(directory / WEIGHTS)
    _convert_old(tensors, directory / WEIGHTS)
    sae = build(config, _ours(tensors, config, directory / WEIGHTS), str(directory / WEIGHTS))
    origin = _origin(raw.get("metadata") or {}, path, config.normaliser)
    if raw.get("reshape_activations") == "hook_z":
        other = {**origin.other, "reshape_activations": "hook_z"}
        origin = dataclasses.replace(origin, other=other)
    if pending:
        sae, origin = saelens_scaler.fold(sae, origin, directory, pending)
    return sae, origin


def _config(raw: dict[str, Any], path: Path) -> tuple[SAEConfig, str]:
    """Return the config, and the normalisation that is not yet folded into the weights or ""."""
    name = raw.get("architecture") or "standard"
    require(
        name in READ,
        f"{path}: architecture {name!r} is not one of: {', '.join(READ)}. A dictionary that was "
        "saved for training (batchtopk, matryoshka_batchtopk) is opened once SAELens has saved it "
        "by save_inference_model",
    )
    reshaped = raw.get("reshape_activations") or "none"
    require(
        reshaped in RESHAPED,
        f"{path}: reshape_activations={reshaped!r} is not one of: {', '.join(RESHAPED)}",
    )
    for size in ("d_in", "d_sae"):
        require(raw.get(size) is not None, f"{path}: {size} is missing")
    activation, transcoder, skip = READ[name]
    normalised = str(raw.get("normalize_activations") or "none")
    pending = normalised if normalised in saelens_scaler.FOLDED else ""
    known = [n.value for n in Normaliser]
    require(
        bool(pending) or normalised in known,
        f"{path}: normalize_activations={normalised!r} is not one of: "
        f"{', '.join([*known, *saelens_scaler.FOLDED])}",
    )
    try:
        config = SAEConfig(
            d_in=raw["d_in"],
            d_sae=raw["d_sae"],
            d_out=(raw.get("d_out") or 0) if transcoder else 0,
            activation=activation,
            k=(raw.get("k") or 0) if activation is Activation.TOPK else 0,
            subtract_b_dec=bool(raw.get("apply_b_dec_to_input", True)),
            rescale_by_decoder_norm=bool(raw.get("rescale_acts_by_decoder_norm")),
            transcoder=transcoder,
            skip=skip,
            normaliser=Normaliser.NONE if pending else Normaliser(normalised),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config, pending


def _current(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a config in the format of version 6; older ones have the metadata at the top."""
    nested = raw.get("metadata")
    if isinstance(nested, dict):
        return raw
    names = {"hook_point": "hook_name", "hook_point_layer": "hook_layer"}
    raw = {names.get(name, name): x for name, x in raw.items()}
    function = raw.get("activation_fn") or raw.get("activation_fn_str")
    kwargs = raw.get("activation_fn_kwargs")
    if function == "topk" and isinstance(kwargs, dict):
        raw |= {"architecture": "topk", "k": kwargs.get("k")}
    if raw.get("normalize_activations") is True:
        raw["normalize_activations"] = saelens_scaler.FACTOR
    if "hook_z" in str(raw.get("hook_name")):
        raw = {"reshape_activations": "hook_z"} | raw
    return raw | {"metadata": {n: raw[n] for n in _METADATA if n in raw}}


def _convert_old(tensors: dict[str, np.ndarray], where: Path) -> None:
    """Replace tensors of older files by those that have taken their place."""
    if "log_threshold" in tensors:
        require("threshold" not in tensors, f"{where}: both threshold and log_threshold")
        tensors["threshold"] = np.exp(tensors.pop("log_threshold"))
    if "scaling_factor" in tensors and "W_dec" in tensors:  # of latents, before the decoder
        tensors["W_dec"] = tensors["W_dec"] * tensors.pop("scaling_factor")[:, None]


def _ours(tensors: dict[str, np.ndarray], config: SAEConfig, where: Path) -> dict[str, np.ndarray]:
    """Return tensors by our names; those that we do not know keep theirs."""
    names = dict(NAMES)
    if config.activation is Activation.GATED:
        del names["b_enc"]
        names["b_gate"] = "b_enc"
    for name in ("b_enc", "threshold"):
        clash = name in tensors and name not in names
        require(not clash, f"{where}: unexpected tensor {name}, which no gated dictionary has")
    found = {names.get(name, name): x for name, x in tensors.items()}
    if "w_skip" in found:
        found["w_skip"] = found["w_skip"].T  # theirs is (d_out, d_in)
    return found


def _origin(raw: dict[str, Any], path: Path, normaliser: Normaliser) -> Origin:
    check_fields(raw, _METADATA, f"{path}: metadata: ")
    own = raw.get("flaxae") or {}
    unknown = sorted(set(own) - set(_OWN))
    require(not unknown, f"{path}: metadata.flaxae has unknown fields {', '.join(unknown)}")
    check_fields(own, _OWN, f"{path}: metadata.flaxae: ")
    hook, layer = parse_hook(raw.get("hook_name") or "", str(raw.get("hf_hook_name") or ""))
    out, layer_out = parse_hook(raw.get("hook_name_out") or "")
    fields = {
        "model": raw.get("model_name") or "",
        "hook": hook,
        "layer": raw.get("hook_layer") if layer is None else layer,
        "hook_out": out,
        "layer_out": layer_out,
        "context_size": raw.get("context_size") or 0,
        "prepend_bos": raw.get("prepend_bos"),
        # Without a normaliser, a factor may have been folded into the weights: it is unknown.
        "normaliser": "" if normaliser is Normaliser.NONE else normaliser.value,
    }
    other = {n: x for n, x in raw.items() if n not in (*_METADATA, *_WRITTEN_ANEW)}
    name = raw.get("hf_hook_name", "")
    if name not in ("", hugging_face_name(fields["hook"], fields["layer"])):
        other["hf_hook_name"] = name
    return Origin(**fields | {n: x for n, x in own.items() if x is not None}, other=other)


def write(directory: Path, sae: SparseAutoencoder, origin: Origin) -> None:
    """Write a directory that `sae_lens.SAE.load_from_disk` opens.

    Batch top-k dictionaries are written as JumpReLU, as SAELens does.

    Args:
        directory: created if it does not exist.
        sae: the dictionary.
        origin: the states that it was trained on.

    Raises:
        ConfigError: if SAELens has no such architecture.
    """
    if sae.config.activation is Activation.BATCH_TOPK:
        sae = folding.as_jump_relu(sae)
    config = sae.config
    key = (config.activation, config.transcoder, config.skip)
    require(
        key in WRITTEN,
        f"SAELens has no {'transcoder' if config.transcoder else 'autoencoder'} with activation "
        f"{config.activation.value}; it opens {', '.join(READ)}",
    )
    raw: dict[str, Any] = {
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.subtract_b_dec,
        "normalize_activations": config.normaliser.value,
        "reshape_activations": origin.other.get("reshape_activations", "none"),
        "metadata": _metadata(origin),
        "architecture": WRITTEN[key],
    }
    if config.activation is Activation.TOPK:
        raw |= {
            "k": int(config.k),
            "rescale_acts_by_decoder_norm": config.rescale_by_decoder_norm,
        }
    if config.transcoder:
        raw["d_out"] = config.d_out
    names = {ours: theirs for theirs, ours in NAMES.items()}
    if config.activation is Activation.GATED:
        names["b_enc"] = "b_gate"
    arrays = values(sae)
    if "w_skip" in arrays:
        arrays["w_skip"] = arrays["w_skip"].T
    write_safetensors(directory / WEIGHTS, {names[n]: x for n, x in arrays.items()})
    text = json.dumps(raw, indent=2) + "\n"
    write_text(directory / CONFIG, text)


def _metadata(origin: Origin) -> dict[str, Any]:
    own = dataclasses.asdict(origin)
    own["other"].pop("reshape_activations", None)
    fields = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        **own.pop("other"),
        "model_name": origin.model,
        "hook_name": lens_name(origin.hook, origin.layer),
        "context_size": origin.context_size or None,
        "prepend_bos": origin.prepend_bos,
        "flaxae": own,
    }
    if origin.hook_out:
        fields["hook_name_out"] = lens_name(origin.hook_out, origin.layer_out)
    name = hugging_face_name(origin.hook, origin.layer)
    if name and "hf_hook_name" not in fields:
        fields["hf_hook_name"] = name
    return fields
