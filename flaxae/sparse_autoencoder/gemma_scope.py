"""Gemma Scope's files: params.npz (1), params.safetensors with config.json (2).

All are JumpReLU dictionaries that subtract no decoder bias; some of the second are transcoders,
with or without an affine skip connection.
"""

from pathlib import Path
from typing import Any

import numpy as np

from flaxae.errors import require
from flaxae.foreign_json import read_fields
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig, SparseAutoencoder
from flaxae.sparse_autoencoder.origin import Origin, parse_hook
from flaxae.sparse_autoencoder.parameters import build
from flaxae.sparse_autoencoder.tensors import read_npz, read_safetensors

NPZ, SAFETENSORS, CONFIG = "params.npz", "params.safetensors", "config.json"
SKIP = "affine_skip_connection"  # (d_in, d_out)
_KINDS = {
    "architecture": str,
    "model_name": str,
    "hf_hook_point_in": str,
    "hf_hook_point_out": str,
    "affine_connection": bool,
    "type": str,
}


def read_first(path: Path, transcoder: bool = False) -> tuple[SparseAutoencoder, Origin]:
    """Read a params.npz of Gemma Scope 1; the hook is not in the file, only in its folder's name.

    All of them were trained on texts that begin with the token of their beginning.

    Args:
        path: the file.
        transcoder: whether it is a transcoder, which has the same tensors as an autoencoder.

    Raises:
        ConfigError: if the file is broken, or a tensor is missing or unexpected.
    """
    tensors = {name.lower(): x for name, x in read_npz(path).items()}  # w_enc or W_enc
    return _build(tensors, path, transcoder=transcoder), Origin(prepend_bos=True)


def read_second(path: Path) -> tuple[SparseAutoencoder, Origin]:
    """Read a params.safetensors of Gemma Scope 2, with the config.json beside it if there is one.

    Raises:
        ConfigError: if a file is broken, the architecture is unknown, or a tensor is missing or
            unexpected.
    """
    config = path.parent / CONFIG
    raw: dict[str, Any] = read_fields(config, _KINDS) if config.is_file() else {}
    kind = raw.get("architecture") or "jump_relu"
    known = ("jump_relu", "jumprelu")
    require(kind in known, f"{config}: architecture {kind!r} is not one of: {', '.join(known)}")
    tensors = read_safetensors(path)
    if raw.get("affine_connection") is not None:
        agree = bool(raw["affine_connection"]) == (SKIP in tensors)
        what = "is missing" if raw["affine_connection"] else "is unexpected"
        require(agree, f"{path}: tensor {SKIP} {what}, by {CONFIG}")
    point_in, point_out = raw.get("hf_hook_point_in") or "", raw.get("hf_hook_point_out") or ""
    apart = point_out not in ("", point_in) or raw.get("type") == "transcoder"
    sae = _build(tensors, path, transcoder=apart or SKIP in tensors)
    hook, layer = parse_hook(point_in)
    out, layer_out = parse_hook(point_out) if sae.config.transcoder else ("", None)
    origin = Origin(
        model=raw.get("model_name") or "",
        hook=hook,
        layer=layer,
        hook_out=out,
        layer_out=layer_out,
        prepend_bos=True,
    )
    return sae, origin


def _build(tensors: dict[str, np.ndarray], path: Path, transcoder: bool) -> SparseAutoencoder:
    for name in ("w_enc", "w_dec"):
        require(name in tensors, f"{path}: tensor {name} is missing")
        require(tensors[name].ndim == 2, f"{path}: {name} is not a matrix")
    (d_in, d_sae), d_out = tensors["w_enc"].shape, tensors["w_dec"].shape[1]
    if SKIP in tensors:
        tensors["w_skip"] = tensors.pop(SKIP)
    config = SAEConfig(
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out,
        activation=Activation.JUMPRELU,
        subtract_b_dec=False,
        transcoder=transcoder or d_in != d_out,
        skip="w_skip" in tensors,
    )
    return build(config, tensors, str(path))
