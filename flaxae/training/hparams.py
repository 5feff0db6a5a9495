"""Traced hyperparameters: config fields that lanes may vary without another compilation."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from flaxae.config import Config, get_field
from flaxae.task import Task

LOOP_HPARAMS = {"lr": "optim.lr", "weight_decay": "optim.weight_decay", "seed": "seed"}


def traced_fields(task: Task) -> set[str]:
    """Return the config fields that are traced: the loop's own and the task's."""
    return set((LOOP_HPARAMS | task.hparams).values())


def make_hparams(task: Task, configs: list[Config], lanes: bool) -> dict[str, Array]:
    """Return the values that are traced instead of compiled into the program.

    "weight_decay" is left out if it is 0 in all configs: the update then need not read parameters.

    Args:
        task: the task, whose `hparams` are added to the loop's own.
        configs: the config of each lane, or the only one.
        lanes: whether the values get a lane axis.

    Returns:
        Name -> scalar, or one value per lane.
    """
    out = {}
    for name, field in (LOOP_HPARAMS | task.hparams).items():
        values = [get_field(c, field) for c in configs]
        if name == "weight_decay" and not any(values):
            continue
        out[name] = jnp.asarray(values if lanes else values[0], _dtype(name, values[0]))
    # data.seed is not one of the fields above: a lane's batches depend on it too (see Feed).
    seeds = [c.data.seed for c in configs]
    out["data_seed"] = jnp.asarray(seeds if lanes else seeds[0], jnp.uint32)
    return out


def _dtype(name: str, value: Any) -> Any:
    if name == "seed":
        return jnp.uint32
    return jnp.int32 if isinstance(value, int) else jnp.float32
