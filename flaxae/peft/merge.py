"""Merging adapters into the weights. The base is never changed, so unmerging needs no code."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from flaxae.errors import ConfigError, require
from flaxae.nn.linear import Linear
from flaxae.peft.apply import Model, active_names, copied, remove_adapter
from flaxae.peft.layers import (
    AdaptedLinear,
    ReplacedParams,
    TiedHead,
    adapted_modules,
    tied_linear,
)
from flaxae.peft.names import find, sites


def merge(model: Model, names: Iterable[str] | str | None = None) -> Model:
    """Return a model of plain layers that computes the same as a model with adapters.

    The model passed in keeps its base and its adapters: use it again to unmerge.

    Args:
        model: a model with adapters.
        names: names of the adapters to merge; None: the active ones. Others are left out.

    Returns:
        The model without adapters, in the dtypes of the base. If an embedding in
        `modules_to_save` is tied to the head, the merged head is untied.

    Raises:
        ConfigError: if two adapters on one module cannot be merged together, or a tied head cannot
            be untied.
    """
    names = active_names(model) if names is None else (names,) if isinstance(names, str) else names
    names = tuple(names)
    base = model
    for name in dict.fromkeys((*names, *dict(getattr(model, "adapter_configs", ())))):
        base = remove_adapter(base, name)  # raises for an unknown name
    out = copied(base)
    tied = {site.path for site in sites(base) if site.tied}
    for path, module in adapted_modules(model):
        used = [module.adapters[name] for name in names if name in module.adapters]
        target = find(out, path)
        if not used:
            continue
        if isinstance(module, AdaptedLinear):
            _merge_linear(module, used, target, path)
            continue
        heads = [x.head for x in used if isinstance(x, TiedHead)]
        tables = [x.table if isinstance(x, TiedHead) else x for x in used]
        tables = [x for x in tables if x is not None]
        require(
            len(tables) <= 1,
            f"{_name(path)}: two adapters train it in full; merge only one of them",
        )
        if heads:
            linear = tied_linear(module)
            _merge_linear(linear, heads, linear, path)
            _untie(out, path, linear.kernel[...])
        elif path in tied:
            _untie(out, path, None)
        for table in tables:
            _merge_saved(module, table, target)
    return out


def _name(path: tuple) -> str:
    return "/".join(map(str, path))


def _untie(model: Any, path: tuple, kernel: Array | None) -> None:
    """Untie a head from an embedding; its kernel is the base's table, transposed, if None."""
    owner = find(model, path[:-1])
    require(
        hasattr(owner, "untie"),
        f"{_name(path)}: the head is tied to it and keeps the base's table, and a merged "
        f"{type(owner).__name__} cannot untie it: use the model with its adapter instead",
    )
    owner.untie(kernel)


def _merge_linear(module: Linear, used: list[Any], target: Any, path: tuple) -> None:
    """Write the kernel and bias of a Linear and its adapters into `target`."""
    kinds = {type(adapter).__name__ for adapter in used}
    dora = any(getattr(adapter, "magnitude", None) is not None for adapter in used)
    if len(used) > 1 and (len(kinds) > 1 or dora or kinds & {"Bias", "SavedLinear"}):
        raise ConfigError(
            f"{_name(path)}: {' and '.join(sorted(kinds))}{' (DoRA)' if dora else ''} of several "
            "adapters cannot be merged together; merge only one of them"
        )
    kernel = module.kernel[...]
    bias = None if module.bias is None else module.bias[...]
    layers = [None] if kernel.ndim == 2 else range(kernel.shape[0])
    kernels, biases = [], []
    for index in layers:
        k = (kernel if index is None else kernel[index]).astype(jnp.float32)
        b = None if bias is None else (bias if index is None else bias[index]).astype(jnp.float32)
        for adapter in used:
            k, b = adapter.merged(k, b, index)
        kernels.append(k.astype(kernel.dtype))
        if bias is not None and b is not None:
            biases.append(b.astype(bias.dtype))
    stack = (lambda xs: xs[0]) if kernel.ndim == 2 else jnp.stack
    target.kernel = nnx.Param(stack(kernels))
    if bias is not None:
        target.bias = nnx.Param(stack(biases))


def _merge_saved(module: Any, saved: ReplacedParams, target: Any) -> None:
    """Write the trained parameters of a module into `target`."""
    stacked = len(saved.layers) > 1
    for name in saved.values:
        base = getattr(module, name)[...]
        if stacked:
            value = jnp.stack([saved.effective(name, base[i], i) for i in range(len(base))])
        else:
            value = saved.effective(name, base)
        setattr(target, name, nnx.Param(value))
