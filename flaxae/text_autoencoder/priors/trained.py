"""Priors that a run has trained, and their parameters in files."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from flaxae.errors import ConfigError
from flaxae.storage.fingerprint import fingerprint
from flaxae.text_autoencoder.priors.base import Prior
from flaxae.tree import path_name


@runtime_checkable
class TrainsPrior(Protocol):
    """A task that trains a prior."""

    def prior(self, model: Any) -> Prior:
        """Return a trained model of the task as a prior."""
        ...


def trained_prior(workdir: str | Path) -> Prior:
    """Open the prior that a run has trained.

    Args:
        workdir: the workdir of the run.

    Raises:
        ConfigError: if the workdir is not that of a prior.
    """
    from flaxae.storage.workdir import stored_config
    from flaxae.training.load import load

    config = stored_config(workdir)
    if not isinstance(config.task.make(config), TrainsPrior):
        raise ConfigError(
            f"{workdir} is a run of {type(config.task).__name__}, not of a prior: train one with "
            "configs/t5_vae/flow_prior.py or autoregressive_prior.py"
        )
    loaded: Any = load(workdir)
    return loaded.task.prior(loaded.model)


def parameters_of(model: nnx.Module) -> str:
    """Return the fingerprint of a model's parameters, by which its priors are recognised."""
    return fingerprint(nnx.state(model, nnx.Param))


def parameters(state: Any) -> dict[str, np.ndarray]:
    """Return the parameters of a prior's network by their dotted names."""
    return {_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def filled(state: Any, arrays: dict[str, np.ndarray], dim: int, folder: str | Path) -> Any:
    """Fill an abstract state with the arrays of a prior's file.

    Args:
        state: the abstract state.
        arrays: the parameters, and mean (dim,) and factor (dim, dim) of the whitening Gaussian.
        dim: numbers per code.
        folder: the prior's folder, for the message.

    Raises:
        ConfigError: if an array is missing, superfluous or of another shape.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    names = [_name(path) for path, _ in leaves]
    shapes: dict[str, Any] = {"mean": (dim,), "factor": (dim, dim)}
    shapes |= {name: x.shape for name, (_, x) in zip(names, leaves, strict=True)}
    if shapes != {name: x.shape for name, x in arrays.items()}:
        raise ConfigError(f"the arrays of the prior in {folder} do not fit its sizes")
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[name]) for name in names])


def to_host(x: Any) -> np.ndarray:
    """Return an array of all processes as a numpy array."""
    if not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def _name(path: tuple) -> str:
    return path_name(path).removesuffix("/value").replace("/", ".")
