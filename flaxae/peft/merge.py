"""Adapters folded into the weights. The base is never written, so there is nothing to undo."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from flax import nnx

from flaxae.errors import ConfigError, require
from flaxae.peft.apply import active_names, copied, remove_adapter
from flaxae.peft.layers import AdaptedLinear, Saved, adapted_modules
from flaxae.peft.names import find


def merge(model: Any, names: Iterable[str] | str | None = None) -> Any:
    """A model of plain layers that computes what a model with adapters computes.

    The given model keeps its base and its adapters: to unmerge is to go on with it.

    Args:
        model: with adapters.
        names: which to fold in; None: the active ones. The others are left out.

    Returns:
        The model without adapters, in the dtypes of the base. Where an embedding was saved whole
        whose table is also the head's, the head has one of its own.

    Raises:
        ConfigError: two adapters that do not add up stand on one module, or a tied head cannot
            be parted from a saved embedding.
    """
    names = active_names(model) if names is None else (names,) if isinstance(names, str) else names
    names = tuple(names)
    base = model
    for name in dict.fromkeys((*names, *dict(getattr(model, "adapter_configs", ())))):
        base = remove_adapter(base, name)  # tells of a name that there is not
    out = copied(base)
    for path, module in adapted_modules(model):
        used = [module.adapters[name] for name in names if name in module.adapters]
        target = find(out, path)
        if not used:
            continue
        if isinstance(module, AdaptedLinear):
            _merge_linear(module, used, target, path)
        else:
            require(len(used) == 1, f"{_name(path)}: two adapters save it whole; merge one of them")
            _untie(out, path)
            _merge_saved(module, used[0], target)
    return out


def _name(path: tuple) -> str:
    return "/".join(map(str, path))


def _untie(model: Any, path: tuple) -> None:
    """Gives a head that is tied to an embedding its own weights: the base's, which it reads."""
    owner = find(model, path[:-1])
    tied = getattr(getattr(owner, "config", None), "tie_embeddings", False)
    if not tied or not hasattr(find(model, path), "attend"):
        return
    require(
        hasattr(owner, "untie"),
        f"{_name(path)}: the head is tied to it and reads the base's, which no merged "
        f"{type(owner).__name__} can keep: go on with the adapter beside the base",
    )
    owner.untie()


def _merge_linear(module: AdaptedLinear, used: list[Any], target: Any, path: tuple) -> None:
    kinds = {type(adapter).__name__ for adapter in used}
    dora = any(getattr(adapter, "magnitude", None) is not None for adapter in used)
    if len(used) > 1 and (len(kinds) > 1 or dora or kinds & {"Bias", "SavedLinear"}):
        raise ConfigError(
            f"{_name(path)}: {' and '.join(sorted(kinds))}{' (DoRA)' if dora else ''} of several "
            "adapters do not add up; merge one of them"
        )
    kernel = module.kernel[...]
    bias = None if module.bias is None else module.bias[...]
    layers = [None] if kernel.ndim == 2 else range(kernel.shape[0])
    pairs = []
    for index in layers:
        k = (kernel if index is None else kernel[index]).astype(jnp.float32)
        b = None if bias is None else (bias if index is None else bias[index]).astype(jnp.float32)
        for adapter in used:
            k, b = adapter.merged(k, b, index)
        pairs.append((k.astype(kernel.dtype), None if b is None else b.astype(bias.dtype)))  # pyright: ignore
    stack = (lambda xs: xs[0]) if kernel.ndim == 2 else jnp.stack
    target.kernel = nnx.Param(stack([k for k, _ in pairs]))
    if bias is not None:
        target.bias = nnx.Param(stack([b for _, b in pairs]))


def _merge_saved(module: Any, saved: Saved, target: Any) -> None:
    stacked = len(saved.layers) > 1
    for name in saved.values:
        base = getattr(module, name)[...]
        if stacked:
            value = jnp.stack([saved.effective(name, base[i], i) for i in range(len(base))])
        else:
            value = saved.effective(name, base)
        setattr(target, name, nnx.Param(value))
