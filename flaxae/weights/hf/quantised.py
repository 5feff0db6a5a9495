"""Quantised weights of other libraries, which are refused by the name of their method."""

from pathlib import Path
from typing import Any

from flaxae.errors import ConfigError

FIELDS = ("quantization_config", "compression_config")
# Files beside config.json that only quantised models have: GPTQ's, AWQ's, ModelOpt's.
FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
# Ends of the names of scales, zero points, codes and their like.
ENDS = (
    "SCB",
    "absmax",
    "codebooks",
    "codes",
    "g_idx",
    "input_scale",
    "nested_absmax",
    "qscales",
    "qweight",
    "qzeros",
    "quant_map",
    "scales",
    "weight_format",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_shape",
    "weight_zero_point",
)
FLOATS = ("F64", "F32", "F16", "BF16")  # types of tensors that are read
WAY_OUT = (
    "open the model that is not quantised, or convert this one where PyTorch is installed: "
    "AutoModelForCausalLM.from_pretrained(DIR).dequantize().save_pretrained(NEW_DIR)"
)


def check_config(directory: Path, raw: dict[str, Any]) -> None:
    """Raise ConfigError for the config of a quantised model.

    Args:
        directory: the model's directory.
        raw: contents of config.json.
    """
    for name in FIELDS:
        if raw.get(name):
            raise ConfigError(
                f"{directory}: its weights are quantised ({name}: {_method(raw[name])}), which is "
                f"not supported: {WAY_OUT}; if the weights are floats, remove {name} from "
                "config.json"
            )
    for name in FILES:
        if (directory / name).is_file():
            raise ConfigError(
                f"{directory}: its weights are quantised ({name}), which is not supported: "
                f"{WAY_OUT}; if the weights are floats, remove {name}"
            )


def _method(config: Any) -> str:
    """Return the name of a method of quantisation."""
    if not isinstance(config, dict):
        return repr(config)
    bits = [name for name in ("load_in_4bit", "load_in_8bit") if config.get(name)]
    return str(config.get("quant_method") or ("bitsandbytes" if bits else "of an unknown method"))


def hint(names: list[str]) -> str:
    """Return a hint for a list of unexpected tensors; "" if none is of a quantised model."""
    found = [name for name in names if name.rpartition(".")[2] in ENDS or "quant_state" in name]
    return (
        f"{found[0]} is of quantised weights, which are not supported: {WAY_OUT}" if found else ""
    )


def check_types(directory: Path, types: dict[str, str]) -> None:
    """Raise ConfigError for tensors that are not stored as floats of at least 16 bits.

    Args:
        directory: the model's directory or file.
        types: name of a tensor that is read -> the name of its type.
    """
    wrong = [name for name, kind in types.items() if kind not in FLOATS]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ConfigError(
            f"{directory}: {wrong[0]}{more} stored as {types[wrong[0]]}, not as one of "
            f"{', '.join(FLOATS)}: quantised weights are not supported: {WAY_OUT}"
        )
