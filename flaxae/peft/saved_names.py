"""Names of adapters' tensors in files that were not written by PEFT's `save_pretrained`."""

import re
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.errors import require
from flaxae.peft import names as names_lib
from flaxae.weights.hf import names as tensor_names

BASE_LAYER = ".base_layer.weight"
ORIGINAL = ".original_module."  # a copy of the base's parameters, beside `modules_to_save`
# A state dict contains the adapter's name, which PEFT leaves out of its files.
_NAMED = re.compile(r"\.(lora_A|lora_B|ia3_l|lora_magnitude_vector)\.(?!weight$)[^.]+(\.weight)?$")
_SAVED = re.compile(r"\.modules_to_save\.[^.]+(?=\.[^.]+$)")


def with_saved_names(
    tensors: dict[str, np.ndarray], wanted: AbstractSet[str]
) -> dict[str, np.ndarray]:
    """Return an adapter's tensors by the names of PEFT's files.

    Names of the state dict of a PEFT model, of torch.compile and of a model without PEFT's prefix
    are changed if all of them fit afterwards; otherwise all stay as they are.

    Args:
        tensors: the tensors of a file.
        wanted: the names that the adapter has.
    """
    if set(tensors) == wanted:
        return tensors
    plain = tensor_names.without_wrappers(tensors)
    out, kept = {}, [key for key in tensors if ORIGINAL not in key]
    for key in kept:
        new = _SAVED.sub("", _NAMED.sub(lambda m: f".{m[1]}{m[2] or ''}", plain[key]))
        out[_fitting(new, wanted)] = tensors[key]
    return out if set(out) == wanted and len(out) == len(kept) else tensors


def _fitting(name: str, wanted: AbstractSet[str]) -> str:
    """Return a name with the prefix or without the end that a wanted name has."""
    inner = name.removeprefix("base_model.").removesuffix(".weight")
    starts = ("base_model.", "base_model.model.", "base_model.model.model.")
    options = [f"{start}{inner}{end}" for start in starts for end in (".weight", "")]
    return next((x for x in (name, *options) if x in wanted), name)


def without_base_layers(
    tensors: dict[str, np.ndarray], model: Any, directory: Path, prefix: str
) -> dict[str, np.ndarray]:
    """Return tensors without the copies of the base's heads that PEFT saves beside their LoRA.

    Args:
        tensors: the tensors of a file.
        model: the model with the adapter.
        directory: the adapter's directory, for messages.
        prefix: beginning of the names.

    Raises:
        ConfigError: if a copy differs from the base.
    """
    out = dict(tensors)
    heads = [site for site in names_lib.sites(model) if site.linear and not site.stacked]
    for site in heads:
        key = f"{prefix}{site.names[0]}{BASE_LAYER}"
        if key not in tensors:
            continue
        module, value = names_lib.find(model, site.path), out.pop(key)
        base = module.table[...] if site.tied else module.kernel[...].T
        same = value.shape == base.shape and np.allclose(value, base, rtol=1e-2, atol=1e-6)
        require(
            same,
            f"{directory}: {key} differs from this base's weight: the adapter was trained "
            "on another base; load the base that it names, or merge it with PEFT",
        )
    return out
