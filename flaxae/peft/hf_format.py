"""PEFT's directories of adapters, read and written strictly; their config is in `hf_config`."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.peft import names as names_lib
from flaxae.peft.apply import (
    DEFAULT,
    Model,
    adapter_configs,
    add_adapter,
    remove_adapter,
    trainable,
)
from flaxae.peft.configs import AdapterConfig
from flaxae.peft.hf_config import CONFIG, base_name, read_config, write_config
from flaxae.peft.layers import AdapterParam, TiedHead
from flaxae.peft.saved_names import with_saved_names, without_base_layers
from flaxae.peft.target_modules import without_unknown
from flaxae.peft.tensors import Entry, entries, with_current_names
from flaxae.pointers import pointer, require_content
from flaxae.storage import checkpoint
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.fingerprint import fingerprint
from flaxae.storage.quiet import quiet_backends
from flaxae.tree import lookup, nest
from flaxae.weights.hf import names as weight_names
from flaxae.weights.hf import quantised

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE = "base_fingerprint"  # in the metadata of the safetensors file, which PEFT ignores


def base_fingerprint(model: nnx.Module) -> str:
    """Return a hash of the names, shapes and values of a model without its adapters."""
    base: Any = nnx.to_pure_dict(nnx.state(model, nnx.Param))  # pyright: ignore
    return fingerprint(base)


def save_adapter(
    model: nnx.Module, directory: str | Path, name: str = DEFAULT, *, base: str | None = None
) -> None:
    """Write an adapter as a directory that PEFT and `load_adapter` open.

    Args:
        model: the model with the adapter.
        directory: created if it does not exist.
        name: name of the adapter; it is not written.
        base: the Hub id or directory from which PEFT loads the base.
    """
    require(
        not is_run(directory),
        f"{directory} is a run's workdir, whose adapter_config.json would be replaced: name "
        "another directory",
    )
    write_config(model, directory, name, base=base)
    tensors = {e.key: e.to_disk() for e in _entries(model, name)}
    metadata = {"format": "pt", BASE: base_fingerprint(model)}
    save_file(tensors, user_path(directory) / WEIGHTS, metadata=metadata)


def load_adapter(
    model: Model, directory: str | Path, name: str = DEFAULT, *, check_base: bool = True
) -> Model:
    """Return a model with an adapter that PEFT or `save_adapter` wrote.

    Args:
        model: the base, with or without other adapters; it is not changed.
        directory: local directory of the adapter, or the workdir of a run, of which the best or
            else the latest checkpoint is read.
        name: name that the adapter gets.
        check_base: raise an error if the adapter was trained on a base with other values.
            Directories of `save_adapter` and workdirs record the base; PEFT's do not.

    Returns:
        The model with the adapter, which is active.

    Raises:
        ConfigError: if the directory is incomplete, uses what is not supported, or is of another
            model.
    """
    directory = user_path(directory)
    if is_run(directory):
        return _from_workdir(model, directory, name, check_base)
    config = read_config(directory)
    tensors, metadata = _read(directory)
    now = base_fingerprint(model) if BASE in metadata and check_base else ""
    require(
        metadata.get(BASE, now) == now or not check_base,
        f"{directory}: it was trained on another base (fingerprint {metadata.get(BASE)}, this "
        f"model has {now}); load the base that it names, or pass check_base=False"
        f"{_base_hint(directory)}",
    )
    if names_lib.model_type(model) == "phi":
        tensors = with_current_names(tensors)
    modules = [n for site in names_lib.sites(model) for n in site.names]
    used = without_unknown(config, modules, tensors)
    try:
        return _filled(_added(model, used, name, directory), name, tensors, directory)
    except ConfigError as error:
        if used is config:
            raise
        unknown = sorted(set(config.target_modules) - set(used.target_modules))
        is_are = "is not a module" if len(unknown) == 1 else "are not modules"
        listed = ", ".join(map(repr, unknown))
        raise ConfigError(f"{error}; target_modules: {listed} {is_are} of this model") from None


def _added(model: Model, config: AdapterConfig, name: str, directory: Path) -> Model:
    """Return a model with an adapter that is not filled yet; errors name the directory."""
    try:
        return add_adapter(model, config, name)
    except ConfigError as error:
        raise ConfigError(f"{directory}: {error}{_base_hint(directory)}") from None


def _base_hint(directory: Path) -> str:
    """Return the end of a message that names an adapter's base; "" if it names none."""
    name = base_name(directory)
    return f"; the adapter was trained on {name!r}" if name else ""


def is_run(directory: str | Path) -> bool:
    """Return True for the workdir of a run, False for a directory that PEFT or others wrote."""
    directory = user_path(directory)
    return workdir_lib.is_workdir(directory) and not (directory / WEIGHTS).is_file()


def _from_workdir(model: Model, workdir: Path, name: str, check_base: bool) -> Model:
    """Read the adapter of a run, whose config is in the workdir as well."""
    require(
        (workdir / CONFIG).is_file(),
        f"{workdir}: a run without an adapter: open it with flaxae.load({str(workdir)!r}).model",
    )
    quiet_backends()
    which = "best" if checkpoint.steps_on_disk(workdir / "best") else "latest"
    arrays, extra, _ = checkpoint.read_arrays(workdir, which)
    new = add_adapter(model, read_config(workdir), name)
    _, params, _ = nnx.split(new, trainable(name), ...)
    if check_base and extra.get("frozen"):
        bare = add_adapter(_without_adapters(model), read_config(workdir))
        _, _, frozen = nnx.split(bare, AdapterParam, ...)
        now = fingerprint(nest({p: v[...] for p, v in nnx.to_flat_state(frozen)}))
        require(
            now == extra["frozen"],
            f"{workdir}: it was trained on another base (fingerprint {extra['frozen']}, this model "
            f"has {now}); load the base that its config names, in the same dtype",
        )
    saved = arrays.get("ema") or arrays["params"]
    for path, variable in nnx.to_flat_state(params):
        saved_path = tuple(
            DEFAULT if part == name and parent == "adapters" else part
            for part, parent in zip(path, ("", *path), strict=False)
        )
        variable[...] = jnp.asarray(lookup(saved, saved_path))
    nnx.update(new, params)
    return new


def _without_adapters(model: Model) -> Model:
    for name in adapter_configs(model):
        model = remove_adapter(model, name)
    return model


def _entries(model: Any, name: str) -> list[Entry]:
    """Return an entry for each tensor of an adapter."""
    out, host = [], {}
    for site in names_lib.sites(model):
        adapters = vars(names_lib.find(model, site.path)).get("adapters", {})
        adapter = adapters.get(name)
        if isinstance(adapter, TiedHead):
            adapter = adapter.head if site.tied else adapter.table
        elif site.tied:
            continue
        if adapter is None:
            continue
        for index, one in enumerate(site.names):
            if adapter.layers[index]:
                at = index if site.stacked else None
                out += entries(adapter, f"{PREFIX}{one}", at, host)
    return out


def _read(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    path = directory / WEIGHTS
    pickle, hint = directory / "adapter_model.bin", ""
    if pickle.is_file():
        hint = pointer(pickle) or "a pickle, which is not opened: save the adapter again with PEFT"
        hint = f" ({pickle.name} is {hint})"
    require(path.is_file(), f"{directory}: no {WEIGHTS}{hint}")
    require_content(path)
    try:
        with safe_open(path, framework="numpy") as file:
            names = weight_names.without_wrappers(file.keys())
            for key in names:
                kind = file.get_slice(key).get_dtype()
                require(
                    kind in quantised.FLOATS,
                    f"{path}: {key} is stored as {kind}, not as one of "
                    f"{', '.join(quantised.FLOATS)}: save the adapter again in float32",
                )
            tensors = {new: file.get_tensor(key) for key, new in names.items()}
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a complete safetensors file ({error})") from None


def _filled(model: Model, name: str, tensors: dict[str, np.ndarray], directory: Path) -> Model:
    """Set the parameters of the model's new adapter to the tensors that were read."""
    wanted = _entries(model, name)
    keys = {entry.key for entry in wanted}
    tensors = with_saved_names(without_base_layers(tensors, model, directory, PREFIX), keys)
    missing, unexpected = sorted(keys - set(tensors)), sorted(set(tensors) - keys)
    wrong = [
        f"{entry.key} is {tensors[entry.key].shape}, config and model say {entry.shape}"
        for entry in wanted
        if entry.key in tensors and tensors[entry.key].shape != entry.shape
    ]
    problems = weight_names.problems(
        [f"{key} is missing" for key in missing],
        [f"{key} is not a tensor of this adapter" for key in unexpected],
        wrong,
    )
    if problems:
        hint = weight_names.hint(unexpected, missing)
        parts = [*problems, *([hint] if hint else [])]
        raise ConfigError(f"{directory}: {'; '.join(parts)}{_base_hint(directory)}")
    for entry in wanted:
        entry.from_disk(tensors[entry.key])
    for variable, value in {id(e.variable): (e.variable, e.values) for e in wanted}.values():
        variable[...] = value
    return model
