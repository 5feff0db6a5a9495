"""PEFT's rules of matching module names with an adapter's config."""

import copy
import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from flaxae.errors import ConfigError, require
from flaxae.peft.configs import (
    AdapterConfig,
    IA3Config,
    Names,
    key_regex,
    layer_regex,
    saved_regex,
)

ALL_LINEAR = "all-linear"
HEAD = "lm_head"

# PEFT's default target_modules of each model type.
LORA_TARGETS = {
    "llama": ("q_proj", "v_proj"),
    "phi": ("fc1", "fc2", "q_proj", "v_proj"),
    "t5": ("q", "v"),
    "mt5": ("q", "v"),
}
IA3_TARGETS = {
    "llama": ("down_proj", "k_proj", "v_proj"),
    "phi": ("fc2", "q_proj", "v_proj"),
    "t5": ("k", "v", "wo"),
    "mt5": ("k", "v", "wi_1"),
}
IA3_FEEDFORWARD = {"llama": ("down_proj",), "phi": ("fc2",), "t5": ("wo",), "mt5": ()}
# The code that Microsoft first published for Phi has a fused projection and other names.
OLD_PHI = {"Wqkv": ("q_proj", "k_proj", "v_proj"), "out_proj": ("dense",)}
OLD_PATH = {"transformer": "model", "h": "layers", "mixer": "self_attn"}


def with_defaults(config: AdapterConfig, model_type: str) -> AdapterConfig:
    """Return the config with its targets filled in, by current names.

    Args:
        config: config of an adapter with targets (LoRA, IA3).
        model_type: "phi", "llama", "t5", ...; "" if the model has none.

    Raises:
        ConfigError: if no targets are set and the model's type has no defaults.
    """
    changes: dict[str, Names] = {}
    ia3 = isinstance(config, IA3Config)
    if config.target_modules is None:
        defaults = IA3_TARGETS if ia3 else LORA_TARGETS
        require(
            model_type in defaults,
            f"target_modules: a model of type {model_type!r} has no defaults: name the modules",
        )
        changes["target_modules"] = defaults[model_type]
    if isinstance(config, IA3Config) and config.feedforward_modules is None:
        require(
            model_type in IA3_FEEDFORWARD,
            f"feedforward_modules: a model of type {model_type!r} has no defaults: name the "
            "modules, or use () for none",
        )
        changes["feedforward_modules"] = IA3_FEEDFORWARD[model_type]
    for name, value in changes.items():
        config = _replaced(config, name, value)
    if model_type == "phi":
        config = _with_current_names(config)
    return config


def _replaced(config: AdapterConfig, name: str, value: Any) -> AdapterConfig:
    config = copy.copy(config)  # not validated: fields that depend on each other change in turn
    object.__setattr__(config, name, value)
    return config


def _with_current_names(config: AdapterConfig) -> AdapterConfig:
    """Return the config with Phi's original names replaced by current ones."""
    for field in ("target_modules", "exclude_modules", "feedforward_modules"):
        names = getattr(config, field, None)
        if isinstance(names, tuple) and set(names) & set(OLD_PHI):
            new = tuple(new for name in names for new in OLD_PHI.get(name, (name,)))
            config = _replaced(config, field, tuple(sorted(new)))
    for field in ("rank_pattern", "alpha_pattern"):
        pattern = getattr(config, field, ())
        if pattern:
            config = _replaced(config, field, _with_current_keys(field, pattern))
    return config


def _with_current_keys(field: str, pattern: tuple) -> tuple:
    """Return a pattern with its keys in current names, in the same order."""
    out: dict[str, float] = {}
    for key, value in pattern:
        plain = key.replace("\\.", ".")
        if not set(re.findall(r"\w+", plain)) & {*OLD_PHI, *OLD_PATH}:
            out.setdefault(key, value)
            continue
        require(
            re.fullmatch(r"[\w.]+", plain) is not None,
            f"{field}: {key!r} is a regex of phi's original names, which cannot be converted to "
            f"current names: name each module (layers.0.self_attn.q_proj for h.0.mixer.Wqkv)",
        )
        *path, last = plain.split(".")
        start = "".join(f"{OLD_PATH.get(part, part)}." for part in path)
        for new in OLD_PHI.get(last, (last,)):
            out.setdefault(f"{start}{new}", value)
    return tuple(out.items())


def matches(names: Names, name: str) -> bool:
    """Match a name with a list (whole names, ends after a dot) or a regex (of the whole name)."""
    if not names:
        return False
    if isinstance(names, str):
        return re.fullmatch(names, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in names)


def is_saved(config: AdapterConfig, name: str) -> bool:
    """Check for a module of `modules_to_save`, which match any end of a name, dot or not."""
    return any(name.endswith(one) for one in config.modules_to_save or ())


def check_saved(config: AdapterConfig, model_type: str) -> None:
    """Raise ConfigError for a module to save whose copy PEFT's model never reads."""
    if model_type in ("t5", "mt5") and is_saved(config, "shared"):
        raise ConfigError(
            "modules_to_save: 'shared' changes nothing in PEFT (a T5's encoder, decoder and tied "
            "head refer to the embedding by other names), so that an adapter with it would compute "
            "something else there: remove it"
        )


def is_target(config: AdapterConfig, name: str, linear: bool = True) -> bool:
    """Check for a module that gets an adapter.

    Args:
        config: config of the adapter, with `target_modules` filled in.
        name: whole name of the module.
        linear: whether it is a Linear ("all-linear" matches those, except the output head).
    """
    if matches(config.exclude_modules, name):
        return False
    saved = config.modules_to_save or ()
    if any(re.match(saved_regex(one), name) for one in saved):
        return False
    targets = config.target_modules
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return linear and name.rpartition(".")[2] != HEAD
    return matches(targets, name) and _in_layers(config, name)


def _in_layers(config: AdapterConfig, name: str) -> bool:
    layers = config.layers_to_transform
    if not layers:
        return True
    patterns = config.layers_pattern
    regexes = [layer_regex(one) for one in patterns or ()] or [
        r".*?\.[^.]*\.(\d+)\."  # the first number after a list's name
    ]
    found = next((m for m in (re.match(x, name) for x in regexes) if m), None)
    # The last group: a pattern may have groups itself.
    return found is not None and int(found.group(found.re.groups)) in layers


def pattern_value(pattern: Iterable, name: str, default: Any) -> Any:
    """Return the value of the first key that matches the end of a name."""
    for key, value in pattern:
        if re.match(key_regex(key), name):
            return value
    return default


def unordered(pattern: tuple, names: Iterable[str]) -> dict[str, float]:
    """Return a pattern that has the same effect on all names in any order of its keys.

    The first key that matches counts, and PEFT sorts the keys when it writes them. If that would
    change which key matches a name, each name gets a separate key.

    Args:
        pattern: pairs of a regex and a value.
        names: names of all target modules.
    """
    found = {name: pattern_value(pattern, name, None) for name in names}
    if all(pattern_value(sorted(pattern), name, None) == x for name, x in found.items()):
        return dict(pattern)
    return {f"^{re.escape(name)}": x for name, x in found.items() if x is not None}


def check_all_used(config: AdapterConfig, names: Iterable[str]) -> None:
    """Raise ConfigError for an entry of a list that matches no module of the model."""
    names = list(names)
    for field in ("target_modules", "modules_to_save"):
        entries = getattr(config, field)
        if not isinstance(entries, tuple):
            continue
        for one in entries:
            used = [n for n in names if matches((one,), n)]
            if not used:
                raise ConfigError(
                    f"{field}: {one!r} is not a module of this model; {_known(names)}"
                )
    if isinstance(config.target_modules, str) and not any(is_target(config, n) for n in names):
        raise ConfigError(
            f"target_modules: the regex {config.target_modules!r} matches no module's whole name; "
            f"{_known(names)}"
        )


def without_unknown(
    config: AdapterConfig, names: Iterable[str], found: Iterable[str]
) -> AdapterConfig:
    """Return the config without listed targets that neither the model nor the file has.

    PEFT ignores such targets if the model has others, and writes them into its files.

    Args:
        config: config of an adapter that is read.
        names: names of the model's modules.
        found: names of the file's tensors.
    """
    targets, names, found = config.target_modules, list(names), list(found)
    if not isinstance(targets, tuple):
        return config

    def is_known(one: str) -> bool:
        parts = [f".{new}." for new in (one, *OLD_PHI.get(one, ()))]
        return any(matches((one,), n) for n in names) or any(p in n for p in parts for n in found)

    kept = tuple(one for one in targets if is_known(one))
    changes: dict[str, Any] = {"target_modules": kept}
    if isinstance(config, IA3Config) and isinstance(config.feedforward_modules, tuple):
        forward = (one for one in config.feedforward_modules if one in kept)
        changes["feedforward_modules"] = tuple(forward)
    return dataclasses.replace(config, **changes) if kept and kept != targets else config


def _known(names: list[str]) -> str:
    """Return a message about the names that a model has."""
    ends = sorted({name.rpartition(".")[2] for name in names})
    return f"there are {', '.join(ends)} (such as {names[0]})"
