"""The batches of a run's calls: steps stacked, and the batches of lanes with their own data."""

from typing import Any

import jax
import numpy as np

from flaxae.errors import ConfigError
from flaxae.task import Source


class Feed:
    """A Source of what one call of the step takes.

    Leaves get an axis of `steps_per_call` if that is above 1, then an axis of lanes if there are
    several sources.

    Args:
        sources: the source that all lanes share, or one per lane.
        steps_per_call: the number of steps per call.

    Raises:
        ConfigError: the sources differ in the shapes or the number of batches.
    """

    def __init__(self, sources: list[Source], steps_per_call: int = 1):
        self.sources, self._steps_per_call = sources, steps_per_call
        self.num_batches = sources[0].num_batches
        self.fingerprint = "+".join(source.fingerprint for source in sources)
        first = sources[0]
        if any(
            s.num_batches != first.num_batches or s.batch_spec != first.batch_spec for s in sources
        ):
            raise ConfigError(
                "lanes with different data need batches of the same shape and number: run them "
                "apart (python -m flaxae.sweep --no-lanes)"
            )

    @property
    def leading(self) -> int:
        """The number of axes before the rows."""
        return (self._steps_per_call > 1) + (len(self.sources) > 1)

    @property
    def batch_spec(self) -> Any:
        """The shapes of one step's batch of one lane."""
        return self.sources[0].batch_spec

    def batch(self, step: int) -> Any:
        """Return the batch of call number `step`."""
        n = self._steps_per_call
        steps = [self._step(step * n + i) for i in range(n)]
        return steps[0] if n == 1 else jax.tree.map(lambda *x: np.stack(x), *steps)

    def _step(self, step: int) -> Any:
        batches = [source.batch(step) for source in self.sources]
        return batches[0] if len(batches) == 1 else jax.tree.map(lambda *x: np.stack(x), *batches)
