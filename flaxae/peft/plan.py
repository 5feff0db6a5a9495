"""The modules and layers that get an adapter, by its config, and the adapter of each module."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from flaxae.errors import ConfigError, require
from flaxae.peft import target_modules as targets
from flaxae.peft.bitfit import Bias, SavedLinear
from flaxae.peft.configs import AdapterConfig, BiasConfig, IA3Config, LoRAConfig
from flaxae.peft.ia3 import IA3
from flaxae.peft.layers import BiasParam, ReplacedParams, SavedParam
from flaxae.peft.lora import LoRA
from flaxae.peft.names import Site

# Modules with an adapter; for each layer of a stack, whether the adapter is in it.
Plan = list[tuple[Site, tuple[bool, ...]]]


def plan_adapters(sites: list[Site], config: AdapterConfig) -> Plan:
    """Choose the modules that get an adapter or are saved whole.

    Args:
        sites: the modules of the model.
        config: config of the adapter, with its targets filled in.

    Raises:
        ConfigError: if a name in the config is not a module of the model, or no module is left.
    """
    if isinstance(config, BiasConfig):
        return _plan_biases(sites, config)
    targets.check_all_used(config, [n for site in sites for n in site.names])
    plan = []
    for site in sites:
        layers = tuple(
            targets.is_target(config, n, site.linear) or targets.is_saved(config, n)
            for n in site.names
        )
        if not any(layers):
            continue
        saved = any(targets.is_saved(config, n) for n in site.names)
        if not site.linear and not saved:
            name = next(n for n, x in zip(site.names, layers, strict=True) if x)
            raise ConfigError(
                f"target_modules: {name} is not a Linear, and only those can have an adapter; "
                "put it into modules_to_save to train it in full"
            )
        plan.append((site, layers))
    if not plan:
        raise ConfigError(
            f"no module is left of target_modules={config.target_modules!r} with "
            f"exclude_modules={config.exclude_modules!r} and "
            f"layers_to_transform={config.layers_to_transform!r}"
        )
    return plan


def _plan_biases(sites: list[Site], config: BiasConfig) -> Plan:
    plan = []
    for site in sites:
        layers = tuple(
            (config.biases and site.biased) or (config.norms and site.norm)
            for n in site.names
            if not targets.matches(config.exclude_modules, n)
        )
        if len(layers) == len(site.names) and any(layers):
            plan.append((site, layers))
    if config.biases and not any(site.biased for site, _ in plan):
        raise ConfigError(
            "bias-only tuning: this model has no biases (llama and T5 have none); choose another "
            "method, or BiasConfig(biases=False, norms=True), which trains the norms' scales"
        )
    return plan


def make_adapter(
    module: Any,
    site: Site,
    layers: tuple[bool, ...],
    config: AdapterConfig,
    key: Key[Array, ""],
) -> nnx.Module:
    """Make the adapter of one module.

    Args:
        module: the module, whose parameters stay as they are.
        site: description of the module.
        layers: the layers of the stack that have the adapter; (True,) outside of a stack.
        config: config of the adapter.
        key: random key that LoRA's factors are drawn from.
    """
    if isinstance(config, BiasConfig):
        if site.linear:
            return Bias(module, layers)
        names = ["bias"] * site.biased + ["scale"] * config.norms
        return ReplacedParams({n: BiasParam(_float32(getattr(module, n))) for n in names}, layers)
    if any(targets.is_saved(config, n) for n in site.names):
        if site.linear:
            return SavedLinear(module, layers)
        params = {n: x for n, x in vars(module).items() if isinstance(x, nnx.Param)}
        return ReplacedParams({n: SavedParam(_float32(x)) for n, x in params.items()}, layers)
    if isinstance(config, IA3Config):
        return _make_ia3(module, site, layers, config)
    assert isinstance(config, LoRAConfig)
    ranks, scalings = [], []
    for name, used in zip(site.names, layers, strict=True):
        rank = int(targets.pattern_value(config.rank_pattern, name, config.r))
        alpha = targets.pattern_value(config.alpha_pattern, name, config.lora_alpha)
        ranks.append(rank if used else 0)
        scalings.append(config.scaling(rank, alpha) if used else 0.0)
    return LoRA(
        module,
        tuple(ranks),
        tuple(scalings),
        stacked=site.stacked,
        dropout_rate=config.lora_dropout,
        dora=config.use_dora,
        key=key,
    )


def _make_ia3(module: Any, site: Site, layers: tuple[bool, ...], config: IA3Config) -> IA3:
    used = [n for n, x in zip(site.names, layers, strict=True) if x]
    kinds = {_is_feedforward(config, n) for n in used}
    require(
        len(kinds) == 1,
        f"feedforward_modules: {config.feedforward_modules!r} names some layers of "
        f"{'/'.join(map(str, site.path))} and not others",
    )
    return IA3(module, feedforward=kinds.pop(), stacked=site.stacked, layers=layers)


def _is_feedforward(config: IA3Config, name: str) -> bool:
    names = config.feedforward_modules
    if isinstance(names, str):
        return targets.matches(names, name)
    return any(name.endswith(one) for one in names or ())


def _float32(variable: Any) -> jax.Array:
    return variable[...].astype(jnp.float32)
