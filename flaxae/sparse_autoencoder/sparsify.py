"""Files of sparsify (the package eai-sparsify): cfg.json and sae.safetensors per hook."""

import json
from pathlib import Path
from typing import Any

from flaxae.errors import ConfigError, require
from flaxae.foreign_json import read_fields
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig, SparseAutoencoder
from flaxae.sparse_autoencoder.origin import Origin, parse_hook
from flaxae.sparse_autoencoder.parameters import build, values
from flaxae.sparse_autoencoder.tensors import read_safetensors, write_safetensors
from flaxae.storage.paths import write_text

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
ACTIVATIONS = {"topk": Activation.TOPK, "groupmax": Activation.GROUPMAX}
# Theirs -> (ours, True if transposed).
NAMES = {
    "encoder.weight": ("w_enc", True),
    "encoder.bias": ("b_enc", False),
    "W_dec": ("w_dec", False),
    "b_dec": ("b_dec", False),
    "W_skip": ("w_skip", True),
}
# A module's output -> its input; that of attention has no name here.
INPUTS = {"mlp_out": "mlp_in", "resid_out": "resid_in"}
_KINDS = {
    "activation": str,
    "num_latents": int,
    "expansion_factor": int,
    "k": int,
    "normalize_decoder": bool,
    "multi_topk": bool,
    "skip_connection": bool,
    "transcode": bool,
    "d_in": int,
    "signed": bool,
}


def read(directory: Path) -> tuple[SparseAutoencoder, Origin]:
    """Read a hook's directory.

    The name of the directory, such as "layers.5.mlp", is the only place where the hook is stated.

    Raises:
        ConfigError: if a file is missing or broken, the activation is unknown, or a tensor is
            missing or unexpected.
    """
    path = directory / CONFIG
    require(path.is_file(), f"{directory}: {CONFIG} is missing, without which {WEIGHTS} is unclear")
    raw = read_fields(path, _KINDS)
    kind = raw.get("activation") or "topk"
    require(
        kind in ACTIVATIONS, f"{path}: activation {kind!r} is not one of: {', '.join(ACTIVATIONS)}"
    )
    require(raw.get("d_in") is not None, f"{path}: d_in is missing")
    require(
        not raw.get("signed"), f"{path}: signed latents, which may be below 0, are not supported"
    )
    transcode = bool(raw.get("transcode"))
    try:
        config = SAEConfig(
            d_in=raw["d_in"],
            d_sae=raw.get("num_latents") or raw["d_in"] * (raw.get("expansion_factor") or 32),
            activation=ACTIVATIONS[kind],
            k=raw.get("k") or 32,
            subtract_b_dec=not transcode,
            transcoder=transcode,
            skip=bool(raw.get("skip_connection")),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    tensors = read_safetensors(directory / WEIGHTS)
    ours = {}
    for name, x in tensors.items():
        own, transposed = NAMES.get(name, (name, False))
        ours[own] = x.T if transposed else x
    sae = build(config, ours, str(directory / WEIGHTS))
    hook, layer = parse_hook(directory.name)
    if layer is None:
        return sae, Origin()
    if transcode:  # from the module's input to its output
        return sae, Origin(hook=INPUTS.get(hook, ""), layer=layer, hook_out=hook, layer_out=layer)
    return sae, Origin(hook=hook, layer=layer)


def write(directory: Path, sae: SparseAutoencoder) -> None:
    """Write a directory that `sparsify.SparseCoder.load_from_disk` opens.

    Raises:
        ConfigError: if sparsify has no such architecture.
    """
    config = sae.config
    kinds = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    require(
        config.activation in kinds
        and config.d_in == config.d_out
        and config.subtract_b_dec != config.transcoder
        and not config.rescale_by_decoder_norm
        and config.normaliser.value == "none",
        "sparsify has top-k and groupmax dictionaries of one width, without normalisation, whose "
        "decoder bias is subtracted unless they are transcoders",
    )
    theirs = {own: (name, transposed) for name, (own, transposed) in NAMES.items()}
    tensors = {}
    for own, x in values(sae).items():
        name, transposed = theirs[own]
        tensors[name] = x.T if transposed else x
    write_safetensors(directory / WEIGHTS, tensors)
    raw: dict[str, Any] = {
        "activation": kinds[config.activation],
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": config.d_sae,
        "k": int(config.k),
        "multi_topk": False,
        "skip_connection": config.skip,
        "transcode": config.transcoder,
        "d_in": config.d_in,
    }
    write_text(directory / CONFIG, json.dumps(raw) + "\n")
