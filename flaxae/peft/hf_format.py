"""PEFT's directories: adapter_config.json and adapter_model.safetensors, both ways, strict.

PEFT has no bias-only type. A LoRA configuration that stands on no module
(`target_modules="dummy-target-modules"`) and saves all biases is one, and PEFT opens it as such.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flaxae.errors import ConfigError, require
from flaxae.peft import names as names_lib
from flaxae.peft.apply import DEFAULT, adapter_configs, add_adapter, remove_adapter, trainable
from flaxae.peft.configs import AdapterConfig, BiasConfig, IA3Config, LoRAConfig
from flaxae.peft.layers import AdapterParam
from flaxae.peft.target_modules import is_target, unordered
from flaxae.peft.tensors import Entry, entries, today
from flaxae.storage import checkpoint
from flaxae.storage.fingerprint import fingerprint
from flaxae.tree import lookup, nest

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TASKS = {"phi": "CAUSAL_LM", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "mt5": "SEQ_2_SEQ_LM"}
BASE = "base_fingerprint"  # in the metadata of the safetensors file, which PEFT ignores
DUMMY = "dummy-target-modules"
SHARED = ("target_modules", "exclude_modules", "modules_to_save")
LORA = (*SHARED, "layers_to_transform", "layers_pattern", "r", "lora_alpha", "lora_dropout",
        "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")  # fmt: skip
IA3_FIELDS = (*SHARED, "feedforward_modules")
# What says nothing about what an adapter computes once it is trained.
IGNORED = {
    "alpha", "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
    "inference_mode", "init_ia3_weights", "loftq_config", "lora_ga_config", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
# Ways to initialise that leave the base's weights as they are; what is converted says True.
HARMLESS_INIT = (True, False, None, "gaussian", "eva", "orthogonal")


def base_fingerprint(model: Any) -> str:
    """A hash of a model's names, shapes and values, its adapters left out."""
    base: Any = nnx.to_pure_dict(nnx.state(model, nnx.Param))  # pyright: ignore
    return fingerprint(base)


def save_adapter(
    model: Any, directory: str | Path, name: str = DEFAULT, *, base: str | None = None
) -> None:
    """Writes an adapter as a directory that PEFT, and `load_adapter`, open.

    Args:
        model: with the adapter.
        directory: made if it is not there.
        name: of the adapter; it is not written.
        base: what PEFT is to load the base from, a Hub id or a directory.
    """
    write_config(model, directory, name, base=base)
    tensors = {e.key: e.to_disk() for e in _entries(model, name)}
    metadata = {"format": "pt", BASE: base_fingerprint(model)}
    save_file(tensors, Path(directory) / WEIGHTS, metadata=metadata)


def write_config(
    model: Any, directory: str | Path, name: str = DEFAULT, *, base: str | None = None
) -> None:
    """Writes an adapter's adapter_config.json alone; the model may be abstract.

    Args:
        model, directory, name, base: see `save_adapter`.
    """
    configs = adapter_configs(model)
    require(name in configs, f"no adapter {name!r}; there are {', '.join(configs) or 'none'}")
    raw = _config_to_peft(configs[name], model)
    raw |= {"base_model_name_or_path": base, "task_type": TASKS.get(names_lib.model_type(model))}
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(sorted(raw.items())), indent=2)  # patterns keep their order
    (directory / CONFIG).write_text(text + "\n", encoding="utf-8")


def load_adapter(
    model: Any, directory: str | Path, name: str = DEFAULT, *, check_base: bool = True
) -> Any:
    """A model with an adapter that PEFT, or `save_adapter`, wrote; the given one stays as it is.

    Args:
        model: the base, with or without other adapters.
        directory: of the adapter, local; or a run's workdir: its best or latest checkpoint.
        name: what to call it.
        check_base: whether a base with other values than the adapter was trained with is an error.
            Directories that `save_adapter` wrote, and workdirs, tell; PEFT's do not.

    Raises:
        ConfigError: the directory is not whole, says what is not supported, or does not fit.
    """
    directory = Path(directory)
    if (directory / "config.json").is_file() and not (directory / WEIGHTS).is_file():
        return _from_workdir(model, directory, name, check_base)
    config = read_config(directory)
    tensors, metadata = _read(directory)
    now = base_fingerprint(model) if BASE in metadata and check_base else ""
    require(
        metadata.get(BASE, now) == now or not check_base,
        f"{directory}: it was trained on another base (fingerprint {metadata.get(BASE)}, this "
        f"model has {now}); load the base that it names, or pass check_base=False",
    )
    if names_lib.model_type(model) == "phi":
        tensors = today(tensors)
    try:
        model = add_adapter(model, config, name)
    except ConfigError as error:
        raise ConfigError(f"{directory}: {error}") from None
    return _filled(model, name, tensors, directory)


def _from_workdir(model: Any, workdir: Path, name: str, check_base: bool) -> Any:
    """The adapter of a run; its config stands beside the run's own."""
    require(
        (workdir / CONFIG).is_file(),
        f"{workdir}: a run without an adapter: open it with flaxae.load({str(workdir)!r}).model",
    )
    which = "best" if checkpoint.steps_on_disk(workdir / "best") else "latest"
    arrays, extra, _ = checkpoint.read_arrays(workdir, which)
    new = add_adapter(model, read_config(workdir), name)
    _, mine, rest = nnx.split(new, trainable(name), ...)
    if check_base and extra.get("frozen"):
        _, _, frozen = nnx.split(add_adapter(_bare(model), read_config(workdir)), AdapterParam, ...)
        now = fingerprint(nest({p: v[...] for p, v in nnx.to_flat_state(frozen)}))
        require(
            now == extra["frozen"],
            f"{workdir}: it was trained on another base (fingerprint {extra['frozen']}, this model "
            f"has {now}); load the base that its config names, in the same dtype",
        )
    saved = arrays.get("ema") or arrays["params"]
    for path, variable in nnx.to_flat_state(mine):
        at = tuple(DEFAULT if a == name and b == "adapters" else a
                   for a, b in zip(path, ("", *path), strict=False))  # fmt: skip
        variable[...] = jnp.asarray(lookup(saved, at))
    nnx.update(new, mine)
    return new


def _bare(model: Any) -> Any:
    for name in adapter_configs(model):
        model = remove_adapter(model, name)
    return model


def read_config(directory: str | Path) -> AdapterConfig:
    """The config of a PEFT directory.

    Raises:
        ConfigError: there is none, or it asks for what is not supported here.
    """
    path = Path(directory) / CONFIG
    require(path.is_file(), f"{directory}: no {CONFIG}: not a PEFT adapter's directory")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    require(isinstance(raw, dict), f"{path}: not a JSON object")
    try:
        return _config_from_peft(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _config_from_peft(raw: dict[str, Any]) -> AdapterConfig:
    kind = raw.get("peft_type")
    require(kind in ("LORA", "IA3"), f"peft_type={kind!r} is not one of: LORA, IA3")
    bias = raw.get("bias", "none") if kind == "LORA" else "none"
    fields = LORA if kind == "LORA" else IA3_FIELDS
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
        require(bias in ("all", "none"), f"bias={bias!r} of an adapter without targets")
        return BiasConfig(biases=bias == "all", norms=bool(raw.get("modules_to_save")))
    require(bias == "none", f"bias={bias!r} beside LoRA's own factors is not supported")
    return LoRAConfig(**given) if kind == "LORA" else IA3Config(**given)


def _config_to_peft(config: AdapterConfig, model: Any) -> dict[str, Any]:
    if isinstance(config, BiasConfig):
        require(
            config.exclude_modules is None,
            "a bias-only adapter with exclude_modules has no form on disk",
        )
        saved = _norm_names(model) if config.norms else None
        raw = {"target_modules": DUMMY, "bias": "all" if config.biases else "none"}
        return raw | {"peft_type": "LORA", "modules_to_save": saved, "inference_mode": True}
    lora = isinstance(config, LoRAConfig)
    raw = {name: _plain(getattr(config, name)) for name in (LORA if lora else IA3_FIELDS)}
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


def _norm_names(model: Any) -> list[str]:
    """The ends of the norms' names, as `modules_to_save` lists them."""
    norms = [site for site in names_lib.sites(model) if site.norm]
    return sorted({name.rpartition(".")[2] for site in norms for name in site.names})


def _entries(model: Any, name: str) -> list[Entry]:
    """Where each tensor of an adapter lies in the model."""
    out, host = [], {}
    for site in names_lib.sites(model):
        adapters = vars(names_lib.find(model, site.path)).get("adapters", {})
        if name not in adapters:
            continue
        for index, one in enumerate(site.names):
            if adapters[name].layers[index]:
                at = index if site.stacked else None
                out += entries(adapters[name], f"{PREFIX}{one}", at, host)
    return out


def _read(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    path = directory / WEIGHTS
    pickle = (directory / "adapter_model.bin").is_file()
    hint = " (adapter_model.bin is a pickle, which is not opened: save it anew with PEFT)"
    require(path.is_file(), f"{directory}: no {WEIGHTS}{hint if pickle else ''}")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, TypeError) as error:
        raise ConfigError(f"{path}: not a complete safetensors file ({error})") from None


def _filled(model: Any, name: str, tensors: dict[str, np.ndarray], directory: Path) -> Any:
    """The model, its new adapter's parameters set to what was read."""
    wanted = _entries(model, name)
    keys = {entry.key for entry in wanted}
    problems = [f"{key} is missing" for key in sorted(keys - set(tensors))]
    problems += [f"{key} is not of this adapter" for key in sorted(set(tensors) - keys)]
    for entry in wanted:
        value = tensors.get(entry.key)
        if value is not None and value.shape != entry.shape:
            problems.append(f"{entry.key} is {value.shape}, config and model say {entry.shape}")
    if problems:
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise ConfigError(f"{directory}: {'; '.join(problems[:6])}{more}")
    for entry in wanted:
        entry.from_disk(tensors[entry.key])
    for variable, value in {id(e.variable): (e.variable, e.values) for e in wanted}.values():
        variable[...] = value
    return model
