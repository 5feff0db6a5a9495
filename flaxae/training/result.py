"""The result of a run."""

import dataclasses
from typing import Any

from flaxae.config import Config
from flaxae.training.evaluator import Metrics
from flaxae.training.state import State


@dataclasses.dataclass
class Result:
    """The result of a run.

    Attributes:
        state: the last state.
        metrics: the last evaluation, "split/name" -> value, or one value per lane.
        status: "done", "already_done", "sigterm" or "sigint".
        config: the config that the run trained with, its schedule's horizon included.
        task: the run's task.
    """

    state: State
    metrics: Metrics
    status: str
    config: Config = dataclasses.field(default_factory=Config)
    task: Any = None

    @property
    def finished(self) -> bool:
        """Whether all steps are trained, now or by an earlier process."""
        return self.status in ("done", "already_done")

    def __repr__(self) -> str:
        step = f"step={self.state['step']}"
        values = [f"{name}={_short(value)}" for name, value in sorted(self.metrics.items())]
        return f"Result({', '.join([self.status, step, *values])})"


def _short(value: Any) -> str:
    """Return a metric, or one metric per lane, with four digits."""
    if isinstance(value, list):
        return f"[{', '.join(_short(x) for x in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
