"""Which runs of a sweep share a program."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from flaxae.config import Config
from flaxae.training.hparams import traced_fields


def group_by_shape(config: Config, runs: list[dict[str, Any]]) -> list[list[int]]:
    """Indices of the runs that one program can train as lanes, in order of appearance.

    Runs that differ in what the task names in `lanes_apart` are not put together: a vmapped program
    takes as long as its slowest lane.
    """
    task = config.task.make(config)
    traced = traced_fields(task) - set(task.lanes_apart)
    groups: dict[str, list[int]] = {}
    for i, overrides in enumerate(runs):
        shape = {k: v for k, v in overrides.items() if k not in traced}
        groups.setdefault(json.dumps(shape, sort_keys=True, default=str), []).append(i)
    return list(groups.values())


class Group(NamedTuple):
    """Runs of one program: one, or lanes.

    Attributes:
        config: the base.
        configs, runs, names: of each run its config, overrides, and folder in outdir.
        outdir: of the sweep.
    """

    config: Config
    configs: list[Config]
    runs: list[dict[str, Any]]
    names: list[str]
    outdir: Path

    def pick(self, indices: list[int]) -> "Group":
        return Group(
            self.config,
            [self.configs[i] for i in indices],
            [self.runs[i] for i in indices],
            [self.names[i] for i in indices],
            self.outdir,
        )
