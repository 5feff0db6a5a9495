"""Grouping the runs of a sweep by the program that they share."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from flaxae.config import Config
from flaxae.training.hparams import traced_fields


def group_by_shape(config: Config, runs: list[dict[str, Any]]) -> list[list[int]]:
    """Group the runs that one program can train as lanes.

    Runs that differ in a field of the task's `lanes_apart` are not grouped: a vmapped program takes
    as long as its slowest lane.

    Args:
        config: the base config.
        runs: overrides of each run.

    Returns:
        The indices of each group's runs, in order of appearance.
    """
    task = config.task.make(config)
    traced = traced_fields(task) - set(task.lanes_apart)
    groups: dict[str, list[int]] = {}
    for i, overrides in enumerate(runs):
        shape = {k: v for k, v in overrides.items() if k not in traced}
        groups.setdefault(json.dumps(shape, sort_keys=True, default=str), []).append(i)
    return list(groups.values())


class Group(NamedTuple):
    """The runs of one program: a single run, or lanes.

    Attributes:
        config: the base config.
        configs: the config of each run.
        runs: the overrides of each run.
        names: the folder of each run in outdir.
        outdir: the folder of the sweep.
    """

    config: Config
    configs: list[Config]
    runs: list[dict[str, Any]]
    names: list[str]
    outdir: Path

    def pick(self, indices: list[int]) -> "Group":
        """Return a group of some of the runs."""
        return Group(
            self.config,
            [self.configs[i] for i in indices],
            [self.runs[i] for i in indices],
            [self.names[i] for i in indices],
            self.outdir,
        )
