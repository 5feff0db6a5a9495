"""Lanes: many runs of one shape, trained as one vmapped program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from flaxae.config import Config, copy_config, flags, to_json
from flaxae.errors import ConfigError
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.checkpoint import Checkpointer
from flaxae.storage.checkpoint_files import steps_on_disk
from flaxae.task import Task
from flaxae.training.hparams import traced_fields


def lane_configs(config: Config, lanes: list[dict[str, Any]] | None, task: Task) -> list[Config]:
    """Return the config of every lane, or the run's own if there are no lanes.

    Args:
        config: the base.
        lanes: overrides of each lane (dotted field -> value); None: a single run.
        task: the base's task.

    Raises:
        ConfigError: if the lanes differ in more than traced fields and data, there are none, or
            this is one of several processes.
    """
    if lanes is None:
        return [config]
    if jax.process_count() > 1:
        raise ConfigError(
            "lanes run in one process: start each process with its own runs and its own workdir"
        )
    if not lanes:
        raise ConfigError("lanes=[] trains nothing: give the overrides of at least one lane")
    free = traced_fields(task)
    for overrides in lanes:
        for name in overrides:
            if name not in free and not name.startswith("data."):
                raise ConfigError(
                    f"lanes may differ in {', '.join(sorted(free))} and data.*, not in {name!r}: "
                    "train runs of other shapes by python -m flaxae.sweep"
                )
    configs = [copy_config(config, overrides) for overrides in lanes]
    for lane in configs:
        flags.validate(lane)  # a single run with these values would be checked too
    return configs


def slice_lane(state: Any, lane: int) -> Any:
    """Return one lane of a state of lanes as an ordinary state."""
    return {k: v if k == "step" else jax.tree.map(lambda x: x[lane], v) for k, v in state.items()}


def write_lane(
    state: Any,
    lane: int,
    folder: Path,
    config: Config,
    step: int,
    extra: dict[str, Any],
    guard: Callable[[], None],
) -> None:
    """Make a lane's folder an ordinary workdir, which can be resumed and loaded.

    One that has a checkpoint of this step, or of a later one, stays as it is.

    Args:
        state: the state of all lanes.
        lane: the lane's index.
        folder: the lane's folder.
        config: the lane's config.
        step: the step of the state.
        extra: JSON to save with the state.
        guard: see `Checkpointer`.
    """
    if newest_step(folder) >= step:
        return
    guard()
    folder.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_json(folder / "config.json", to_json(config))
    workdir_lib.write_json(folder / "versions.json", workdir_lib.versions())
    checkpointer = Checkpointer(folder, config.save, guard=guard)
    checkpointer.save(step, slice_lane(state, lane), extra, wait=True)
    checkpointer.close()


def newest_step(folder: Path) -> int:
    """Return the step of a folder's newest checkpoint; 0 if it has none."""
    return max(steps_on_disk(folder / "latest"), default=0)
