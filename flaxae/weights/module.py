"""A flaxae module as a directory: config.json, and its variables in safetensors by their paths."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from safetensors import SafetensorError

from flaxae.errors import ConfigError, require
from flaxae.weights import hf


def write(directory: Path, config: dict[str, Any], module: nnx.Module, skip: Any = False) -> None:
    """Write a module.

    Args:
        directory: created if it does not exist.
        config: content of config.json.
        module: the module.
        skip: filter of variables that are not saved.

    Raises:
        ConfigError: if the directory is a file or a run's workdir, or cannot be written.
    """
    run = any((directory / kind).exists() for kind in ("latest", "best"))
    require(not run, f"{directory} is a run's workdir: name another directory")
    values = {name: var[...] for name, var in _named(module, skip)[1].items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        hf.write(directory, config, _table(values), values)
    except (OSError, SafetensorError) as e:
        raise ConfigError(f"cannot write into {directory}: {e}") from None


def read(directory: Path, abstract: nnx.Module, skip: Any = False) -> nnx.Module:
    """Read a module strictly: no missing or extra variables, all shapes equal.

    Args:
        directory: a directory that `write` wrote.
        abstract: the module as `nnx.eval_shape` returns it.
        skip: filter of variables that were not saved; they become zeros.

    Raises:
        ConfigError: if a file is missing or damaged, or its variables are not the module's.
    """
    graphdef, flat, rest = _named(abstract, skip)
    shapes = {name: jax.ShapeDtypeStruct(var.shape, var.dtype) for name, var in flat.items()}
    values = hf.read_params(hf.Tensors(directory), _table(shapes), shapes)
    saved = nnx.State.from_flat_path(
        {tuple(_key(k) for k in n.split("/")): flat[n].replace(values[n]) for n in flat}
    )
    rest = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rest)
    return nnx.merge(graphdef, rest, saved)


def _named(module: nnx.Module, skip: Any) -> tuple[Any, dict[str, Any], Any]:
    """Return the graph, the variables to save by name, and all other variables."""
    graphdef, rest, saved = nnx.split(module, skip, ...)
    return graphdef, {"/".join(map(str, p)): v for p, v in nnx.to_flat_state(saved)}, rest


def _key(part: str) -> str | int:
    return int(part) if part.isdigit() else part


def _table(values: dict[str, Any]) -> hf.Table:
    """Return the table of a file that uses our own names."""
    return hf.Table({name: hf.Weight((name,)) for name in values})
