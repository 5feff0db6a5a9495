"""Adapters on a model: add, remove, choose. A model that is given is never changed."""

import zlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxae.errors import ConfigError, require
from flaxae.peft import names as names_lib
from flaxae.peft import target_modules as targets
from flaxae.peft.bitfit import Bias, SavedLinear
from flaxae.peft.configs import AdapterConfig, BiasConfig, IA3Config, LoRAConfig
from flaxae.peft.ia3 import IA3
from flaxae.peft.layers import (
    AdapterParam,
    BiasParam,
    Saved,
    SavedParam,
    adapted_class,
    adapted_modules,
)
from flaxae.peft.lora import LoRA
from flaxae.peft.names import Site

DEFAULT = "default"


def copied(model: Any) -> Any:
    """Another module of the same arrays: what is hung onto it does not reach the first."""
    return nnx.merge(*nnx.split(model))


def add_adapter(model: Any, config: AdapterConfig, name: str = DEFAULT, *, seed: Any = 0) -> Any:
    """A model with one more adapter, active; the given one stays as it is.

    Args:
        model: any model of this library; its arrays are shared, not copied.
        config: a LoRAConfig, IA3Config or BiasConfig.
        name: of the adapter.
        seed: an integer or a key that LoRA's factors are drawn from.

    Returns:
        The model with the adapter.

    Raises:
        ConfigError: there is an adapter of this name, or the config names what the model lacks.
    """
    require(name.isidentifier(), f"adapter name {name!r} is not a word of letters, digits and _")
    require(name not in adapter_names(model), f"there is an adapter {name!r}: remove it first")
    model, sites = copied(model), names_lib.sites(model)
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    if isinstance(config, BiasConfig):
        plan = _plan_biases(sites, config)
    else:
        kind = names_lib.model_type(model)
        config = targets.with_defaults(config, kind)
        targets.check_saved(config, kind)
        plan = _plan(sites, config)
    for site, on in plan:
        module = names_lib.find(model, site.path)
        path = "/".join(map(str, site.path))
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        _hang(module, name, _make(module, site, on, config, own))
    _remember(model, {**adapter_configs(model), name: config}, (*active_names(model), name))
    return model


def adapter_configs(model: Any) -> dict[str, AdapterConfig]:
    """The adapters of a model: name -> config, its targets filled in."""
    return dict(getattr(model, "adapter_configs", ()))


def adapter_names(model: Any) -> tuple[str, ...]:
    return tuple(adapter_configs(model))


def active_names(model: Any) -> tuple[str, ...]:
    """The adapters that are used where `ctx.adapter_scale` does not name them."""
    return tuple(getattr(model, "active_adapters", ()))


def set_active(model: Any, names: Iterable[str] | str) -> Any:
    """A model in which just these adapters are active; () disables all.

    Args:
        model: with adapters; it stays as it is.
        names: of its adapters.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        _check_name(model, name)
    model = copied(model)
    _remember(model, adapter_configs(model), names)
    return model


def remove_adapter(model: Any, name: str) -> Any:
    """A model without an adapter: with the last one gone, the base as it was."""
    _check_name(model, name)
    model = copied(model)
    for _, module in adapted_modules(model):
        if name in module.adapters:
            rest = {k: v for k, v in module.adapters.items() if k != name}
            module.adapters = nnx.Dict(rest)
    configs = {k: v for k, v in adapter_configs(model).items() if k != name}
    _remember(model, configs, tuple(x for x in active_names(model) if x != name))
    return model


def trainable(name: str | None = None) -> Callable[[Any, Any], bool]:
    """A filter (`Task.trainable`, `nnx.split`) of adapters' parameters: of one, or of all."""

    def fits(path: tuple, variable: Any) -> bool:
        mine = name is None or ("adapters", name) in zip(path, path[1:], strict=False)
        kind = getattr(variable, "type", type(variable))
        return mine and isinstance(kind, type) and issubclass(kind, AdapterParam)

    return fits


def count_params(model: Any, name: str | None = None) -> int:
    """How many numbers adapters train: of one, or of all; padding of ranks not counted."""
    total = 0
    for _, host in adapted_modules(model):
        for own, module in host.adapters.items():
            total += _count(module) if name in (None, own) else 0
    return total


def _count(module: Any) -> int:
    used, layers = sum(module.layers), len(module.layers)
    variables: Any = nnx.to_flat_state(nnx.state(module, AdapterParam))
    total = sum(v.size // layers * used for _, v in variables)
    if isinstance(module, LoRA):
        pad = sum(max(module.ranks) - rank for rank in module.ranks if rank)
        total -= pad * (module.A.shape[-2] + module.B.shape[-1])
    return total


def _check_name(model: Any, name: str) -> None:
    have = adapter_names(model)
    require(name in have, f"no adapter {name!r}; there are {', '.join(have) or 'none'}")


def _hang(module: Any, name: str, adapter: Any) -> None:
    if "adapters" not in vars(module):
        object.__setattr__(module, "__class__", adapted_class(type(module)))
        module.adapters = nnx.Dict({})
    module.adapters[name] = adapter


def _remember(model: Any, configs: dict[str, AdapterConfig], active: tuple[str, ...]) -> None:
    """Writes the names of all adapters into each adapted module, and gives bare ones back."""
    for _, module in adapted_modules(model):
        if not len(module.adapters):
            kind: Any = type(module)
            for attribute in ("adapters", "known", "active"):
                delattr(module, attribute)
            object.__setattr__(module, "__class__", kind.base_class)
            continue
        module.known, module.active = tuple(configs), active
    if configs:
        model.adapter_configs, model.active_adapters = tuple(configs.items()), active
    else:
        del model.adapter_configs, model.active_adapters


def _plan(sites: list[Site], config: AdapterConfig) -> list[tuple[Site, tuple[bool, ...]]]:
    """The modules that get an adapter, or are saved whole; in a stack, in which layers."""
    targets.check_all_used(config, [n for site in sites for n in site.names])
    plan = []
    for site in sites:
        on = tuple(
            targets.is_target(config, n, site.linear) or targets.is_saved(config, n)
            for n in site.names
        )
        if not any(on):
            continue
        saved = any(targets.is_saved(config, n) for n in site.names)
        if not site.linear and not saved:
            name = next(n for n, x in zip(site.names, on, strict=True) if x)
            raise ConfigError(
                f"target_modules: {name} is no Linear, and adapters stand on those only; "
                "put it into modules_to_save to train it whole"
            )
        plan.append((site, on))
    if not plan:
        raise ConfigError(
            f"no module is left of target_modules={config.target_modules!r} with "
            f"exclude_modules={config.exclude_modules!r} and "
            f"layers_to_transform={config.layers_to_transform!r}"
        )
    return plan


def _plan_biases(sites: list[Site], config: BiasConfig) -> list[tuple[Site, tuple[bool, ...]]]:
    plan = []
    for site in sites:
        on = tuple(
            (config.biases and site.biased) or (config.norms and site.norm)
            for n in site.names
            if not targets.named_by(config.exclude_modules, n)
        )
        if len(on) == len(site.names) and any(on):
            plan.append((site, on))
    if config.biases and not any(site.biased for site, _ in plan):
        raise ConfigError(
            "bias-only tuning: this model has no biases (llama and T5 have none); choose another "
            "method, or BiasConfig(biases=False, norms=True), which trains the norms' scales"
        )
    return plan


def _make(
    module: Any, site: Site, on: tuple[bool, ...], config: AdapterConfig, key: jax.Array
) -> Any:
    """The adapter of one module."""
    if isinstance(config, BiasConfig):
        if site.linear:
            return Bias(module, on)
        names = ["bias"] * site.biased + ["scale"] * config.norms
        return Saved({n: BiasParam(_wide(getattr(module, n))) for n in names}, on)
    if any(targets.is_saved(config, n) for n in site.names):
        if site.linear:
            return SavedLinear(module, on)
        own = {n: x for n, x in vars(module).items() if isinstance(x, nnx.Param)}
        return Saved({n: SavedParam(_wide(x)) for n, x in own.items()}, on)
    if isinstance(config, IA3Config):
        forward = {_is_feedforward(config, n) for n, x in zip(site.names, on, strict=True) if x}
        require(
            len(forward) == 1,
            f"feedforward_modules: {config.feedforward_modules!r} takes some layers of "
            f"{'/'.join(map(str, site.path))} and leaves others",
        )
        return IA3(module, feedforward=forward.pop(), stacked=site.stacked, layers=on)
    assert isinstance(config, LoRAConfig)
    ranks, scalings = [], []
    for name, x in zip(site.names, on, strict=True):
        rank = int(targets.pattern_value(config.rank_pattern, name, config.r))
        alpha = targets.pattern_value(config.alpha_pattern, name, config.lora_alpha)
        ranks.append(rank if x else 0)
        scalings.append(config.scaling(rank, alpha) if x else 0.0)
    return LoRA(
        module,
        tuple(ranks),
        tuple(scalings),
        stacked=site.stacked,
        dropout_rate=config.lora_dropout,
        dora=config.use_dora,
        key=key,
    )


def _is_feedforward(config: IA3Config, name: str) -> bool:
    names = config.feedforward_modules
    if isinstance(names, str):
        return targets.named_by(names, name)
    return any(name.endswith(one) for one in names or ())


def _wide(variable: Any) -> jax.Array:
    return variable[...].astype(jnp.float32)
