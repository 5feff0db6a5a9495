"""Lanes: many runs of one shape, trained as one vmapped program."""

from pathlib import Path
from typing import Any

import jax

from flaxae.config import Config, copy_config, flags, to_json
from flaxae.errors import ConfigError
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.checkpoint import Checkpointer
from flaxae.task import Task
from flaxae.training.state import LOOP_HPARAMS


def lane_configs(config: Config, lanes: list[dict[str, Any]] | None, task: Task) -> list[Config]:
    """The config of every lane. Raises ConfigError where more than hparams and data differs."""
    if lanes is None:
        return [config]
    if jax.process_count() > 1:
        raise ConfigError(
            "lanes run in one process: give each process's runs a workdir of their own"
        )
    if not lanes:
        raise ConfigError("lanes=[] trains nothing: give overrides of at least one lane")
    free = set((LOOP_HPARAMS | task.hparams).values())
    for overrides in lanes:
        for name in overrides:
            if name not in free and not name.startswith("data."):
                raise ConfigError(
                    f"lanes may differ in {', '.join(sorted(free))} and data.*, not in {name!r}: "
                    "runs of other shapes are a sweep of several groups"
                )
    configs = [copy_config(config, overrides) for overrides in lanes]
    for lane in configs:
        flags.validate(lane)  # what a single run of these values would be told
    return configs


def slice_lane(state: Any, lane: int) -> Any:
    """One lane of a state of lanes, as an ordinary state."""
    return {k: v if k == "step" else jax.tree.map(lambda x: x[lane], v) for k, v in state.items()}


def take_lane(state: Any, lane: int, folder: Path, config: Config, step: int, extra: dict) -> None:
    """Makes a lane's folder an ordinary workdir: it can be resumed and `flaxae.load` opens it."""
    folder.mkdir(parents=True, exist_ok=True)
    workdir_lib.write_json(folder / "config.json", to_json(config))
    workdir_lib.write_json(folder / "versions.json", workdir_lib.versions())
    checkpointer = Checkpointer(folder, config.save)
    if step not in checkpointer.steps():
        checkpointer.save(step, slice_lane(state, lane), extra, wait=True)
    checkpointer.close()
