"""Adapters on a model: add, remove, activate. A model that is passed in is never changed."""

import numbers
import zlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Array, Key

from flaxae.config.ranges import SEEDS
from flaxae.errors import require
from flaxae.peft import names as names_lib
from flaxae.peft import target_modules as targets
from flaxae.peft.configs import AdapterConfig, BiasConfig
from flaxae.peft.layers import (
    AdapterParam,
    TiedHead,
    adapted_class,
    adapted_modules,
    tied_linear,
)
from flaxae.peft.lora import LoRA
from flaxae.peft.plan import make_adapter, plan_adapters

DEFAULT = "default"
Model = TypeVar("Model", bound=nnx.Module)


def copied(model: Model) -> Model:
    """Return another module with the same arrays; adding adapters to it leaves the first alone."""
    return nnx.merge(*nnx.split(model))


def add_adapter(
    model: Model,
    config: AdapterConfig,
    name: str = DEFAULT,
    *,
    seed: int | Key[Array, ""] = 0,
) -> Model:
    """Return a model with one more adapter, which is active.

    Args:
        model: any model of this library; it is not changed, its arrays are shared.
        config: a LoRAConfig, IA3Config or BiasConfig.
        name: name of the adapter.
        seed: an integer or a key that LoRA's factors are drawn from.

    Returns:
        The model with the adapter.

    Raises:
        ConfigError: if there is an adapter of this name, or the config names a module that the
            model does not have.
    """
    require(name.isidentifier(), f"adapter name {name!r} must consist of letters, digits and _")
    require(
        name not in adapter_names(model), f"there is an adapter {name!r} already: remove it first"
    )
    model, sites = copied(model), names_lib.sites(model)
    if isinstance(seed, numbers.Integral):
        SEEDS.check("seed", seed, int)
        seed = jax.random.key(int(seed))
    key: Any = seed
    if not isinstance(config, BiasConfig):
        model_type = names_lib.model_type(model)
        config = targets.with_defaults(config, model_type)
        targets.check_saved(config, model_type)
    for site, layers in plan_adapters(sites, config):
        module = names_lib.find(model, site.path)
        path = "/".join(map(str, (*site.path, "head") if site.tied else site.path))
        module_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        base = tied_linear(module) if site.tied else module
        adapter: Any = make_adapter(base, site, layers, config, module_key)
        if site.tied:
            adapter = TiedHead(adapter, vars(module).get("adapters", {}).get(name))
        _attach(module, name, adapter)
    _set_configs(model, {**adapter_configs(model), name: config}, (*active_names(model), name))
    return model


def adapter_configs(model: nnx.Module) -> dict[str, AdapterConfig]:
    """Return the adapters of a model: name -> config, with its targets filled in."""
    return dict(getattr(model, "adapter_configs", ()))


def adapter_names(model: nnx.Module) -> tuple[str, ...]:
    """Return the names of a model's adapters."""
    return tuple(adapter_configs(model))


def active_names(model: nnx.Module) -> tuple[str, ...]:
    """Return the names of the adapters that are used if `ctx.adapter_scale` does not name them."""
    return tuple(getattr(model, "active_adapters", ()))


def set_active(model: Model, names: Iterable[str] | str) -> Model:
    """Return a model in which only these adapters are active; () disables all.

    Args:
        model: a model with adapters; it is not changed.
        names: names of the active adapters.

    Raises:
        ConfigError: if the model does not have one of these adapters.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        _check_name(model, name)
    model = copied(model)
    _set_configs(model, adapter_configs(model), names)
    return model


def remove_adapter(model: Model, name: str) -> Model:
    """Return a model without an adapter; without its last adapter it is the base again.

    Raises:
        ConfigError: if the model has no adapter of this name.
    """
    _check_name(model, name)
    model = copied(model)
    for _, module in adapted_modules(model):
        if name in module.adapters:
            rest = {k: v for k, v in module.adapters.items() if k != name}
            module.adapters = nnx.Dict(rest)
    configs = {k: v for k, v in adapter_configs(model).items() if k != name}
    _set_configs(model, configs, tuple(x for x in active_names(model) if x != name))
    return model


def trainable(name: str | None = None) -> Callable[[Any, Any], bool]:
    """Return a filter of adapters' parameters, for `Task.trainable` and `nnx.split`.

    Args:
        name: name of the adapter; None: all adapters.
    """

    def matches(path: tuple, variable: Any) -> bool:
        named = name is None or ("adapters", name) in zip(path, path[1:], strict=False)
        kind = getattr(variable, "type", type(variable))
        return named and isinstance(kind, type) and issubclass(kind, AdapterParam)

    return matches


def count_params(model: nnx.Module, name: str | None = None) -> int:
    """Count the numbers that adapters train, without the padding of ranks.

    Args:
        model: a model with adapters.
        name: name of the adapter; None: all adapters.
    """
    total = 0
    for _, module in adapted_modules(model):
        for its_name, adapter in module.adapters.items():
            total += _count(adapter) if name in (None, its_name) else 0
    return total


def _count(adapter: Any) -> int:
    used, layers = sum(adapter.layers), len(adapter.layers)
    variables: Any = nnx.to_flat_state(nnx.state(adapter, AdapterParam))
    total = sum(v.size // layers * used for _, v in variables)
    if isinstance(adapter, LoRA):
        pad = sum(max(adapter.ranks) - rank for rank in adapter.ranks if rank)
        total -= pad * (adapter.A.shape[-2] + adapter.B.shape[-1])
    return total


def _check_name(model: nnx.Module, name: str) -> None:
    have = adapter_names(model)
    require(name in have, f"no adapter {name!r}; there are {', '.join(have) or 'none'}")


def _attach(module: Any, name: str, adapter: Any) -> None:
    """Add an adapter to a module, whose class becomes one that calls its adapters."""
    if "adapters" not in vars(module):
        object.__setattr__(module, "__class__", adapted_class(type(module)))
        module.adapters = nnx.Dict({})
    module.adapters[name] = adapter


def _set_configs(model: Any, configs: dict[str, AdapterConfig], active: tuple[str, ...]) -> None:
    """Write all adapters' names into each adapted module; restore modules without adapters."""
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
