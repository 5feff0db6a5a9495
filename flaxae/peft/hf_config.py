"""PEFT's adapter_config.json, to and from our configs.

PEFT has no bias-only type. It is written as a LoRA config without a target module
(`target_modules="dummy-target-modules"`) that saves all biases, which PEFT opens as bias-only.
"""

import json
from pathlib import Path
from typing import Any

from flax import nnx

from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.foreign_json import check_fields, read_fields, read_json
from flaxae.peft import names as names_lib
from flaxae.peft.apply import DEFAULT, adapter_configs
from flaxae.peft.configs import NAMES, AdapterConfig, BiasConfig, IA3Config, LoRAConfig
from flaxae.peft.target_modules import is_target, unordered

CONFIG = "adapter_config.json"
TASKS = {"phi": "CAUSAL_LM", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "mt5": "SEQ_2_SEQ_LM"}
DUMMY = "dummy-target-modules"
SHARED = ("target_modules", "exclude_modules", "modules_to_save")
LORA_FIELDS = (
    *SHARED,
    "layers_to_transform",
    "layers_pattern",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
)
IA3_FIELDS = (*SHARED, "feedforward_modules")
# Fields that do not change what a trained adapter computes.
IGNORED = {
    "alpha",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "init_ia3_weights",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
KINDS = {
    "peft_type": str,
    "bias": str,
    "init_lora_weights": str | bool,
    "base_model_name_or_path": str,
    "modules_to_save": NAMES,
    "target_modules": NAMES,
}
# Initialisations that do not change the base's weights; a converted adapter has True.
HARMLESS_INIT = (True, False, None, "gaussian", "eva", "orthogonal")


def read_config(directory: str | Path) -> AdapterConfig:
    """Read the config of a PEFT directory.

    Raises:
        ConfigError: if there is no config, or it has an unsupported option.
    """
    path = user_path(directory) / CONFIG
    require(path.is_file(), f"{directory}: no {CONFIG}: {_not_an_adapter(path.parent)}")
    raw = read_json(path)
    try:
        return config_from_peft(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def base_name(directory: str | Path) -> str:
    """Return the Hub id or directory of the model that an adapter was trained on; "" if unknown.

    Raises:
        ConfigError: if there is no config, or it is not JSON.
    """
    path = user_path(directory) / CONFIG
    require(path.is_file(), f"{directory}: no {CONFIG}: {_not_an_adapter(path.parent)}")
    return read_fields(path, KINDS).get("base_model_name_or_path") or ""


def _not_an_adapter(directory: Path) -> str:
    """Return what a directory without a config is, and the adapters below it."""
    inside = [path.parent.name for path in sorted(directory.glob(f"*/{CONFIG}"))]
    hint = f"; there are adapters in its folders {', '.join(inside)}" if inside else ""
    return f"not a PEFT adapter's directory{hint}"


def write_config(
    model: nnx.Module, directory: str | Path, name: str = DEFAULT, *, base: str | None = None
) -> None:
    """Write only the adapter_config.json of an adapter.

    Args:
        model: the model with the adapter; it may be abstract.
        directory: created if it does not exist.
        name: name of the adapter; it is not written.
        base: the Hub id or directory from which PEFT loads the base.

    Raises:
        ConfigError: if there is no such adapter, or PEFT has no config for it.
    """
    configs = adapter_configs(model)
    require(name in configs, f"no adapter {name!r}; there are {', '.join(configs) or 'none'}")
    raw = config_to_peft(configs[name], model)
    raw |= {"base_model_name_or_path": base, "task_type": TASKS.get(names_lib.model_type(model))}
    directory = user_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(sorted(raw.items())), indent=2)  # the keys of patterns keep their order
    (directory / CONFIG).write_text(text + "\n", encoding="utf-8")


def config_from_peft(raw: dict[str, Any]) -> AdapterConfig:
    """Convert the contents of adapter_config.json.

    Raises:
        ConfigError: if the config has an unsupported option.
    """
    check_fields(raw, KINDS)
    kind = raw.get("peft_type")
    require(kind in ("LORA", "IA3"), f"peft_type={kind!r} is not one of: LORA, IA3")
    bias = (raw.get("bias") or "none") if kind == "LORA" else "none"
    fields = LORA_FIELDS if kind == "LORA" else IA3_FIELDS
    init = raw.get("init_lora_weights", True)
    require(
        init in HARMLESS_INIT,
        f"init_lora_weights={init!r} changes the base's weights: convert the adapter to a plain "
        "LoRA with PEFT first (path_initial_model_for_weight_conversion)",
    )
    for name, value in raw.items():
        known = name in IGNORED or name in fields or name in ("bias", "init_lora_weights")
        require(known or not value, f"{name}={value!r} is not supported")
    given = {name: raw[name] for name in fields if raw.get(name) is not None}
    if raw.get("target_modules") == DUMMY:
        require(
            bias in ("all", "none"), f"bias={bias!r} of an adapter without targets is not supported"
        )
        return BiasConfig(biases=bias == "all", norms=bool(raw.get("modules_to_save")))
    require(bias == "none", f"bias={bias!r} together with LoRA's factors is not supported")
    return LoRAConfig(**given) if kind == "LORA" else IA3Config(**given)


def config_to_peft(config: AdapterConfig, model: nnx.Module) -> dict[str, Any]:
    """Return the contents of adapter_config.json, without the names of base and task.

    Args:
        config: our config.
        model: the model with the adapter, whose modules' names are needed.

    Raises:
        ConfigError: if PEFT has no config for it.
    """
    if isinstance(config, BiasConfig):
        require(
            config.exclude_modules is None,
            "a bias-only adapter with exclude_modules cannot be written for PEFT",
        )
        saved = _norm_names(model) if config.norms else None
        raw = {"target_modules": DUMMY, "bias": "all" if config.biases else "none"}
        return raw | {"peft_type": "LORA", "modules_to_save": saved, "inference_mode": True}
    lora = isinstance(config, LoRAConfig)
    raw = {name: _plain(getattr(config, name)) for name in (LORA_FIELDS if lora else IA3_FIELDS)}
    if isinstance(config, LoRAConfig):
        sites = names_lib.sites(model)
        names = [n for s in sites for n in s.names if is_target(config, n, s.linear)]
        for field in ("rank_pattern", "alpha_pattern"):
            raw[field] = unordered(getattr(config, field), names)
        raw["bias"] = "none"
        alpha = config.lora_alpha
        raw["lora_alpha"] = int(alpha) if alpha == int(alpha) else alpha
    return raw | {"peft_type": "LORA" if lora else "IA3", "inference_mode": True}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _norm_names(model: nnx.Module) -> list[str]:
    """Return the ends of the norms' names, as `modules_to_save` lists them."""
    norms = [site for site in names_lib.sites(model) if site.norm]
    return sorted({name.rpartition(".")[2] for site in norms for name in site.names})
