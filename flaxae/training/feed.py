"""What the loop feeds a step: steps stacked, and the batches of lanes with data of their own."""

from typing import Any

import jax
import numpy as np

from flaxae.errors import ConfigError
from flaxae.task import Source


class Feed:
    """The batches of call i of a step, as a Source.

    Leaves get an axis of `steps_per_call` where that is above 1, then one of lanes where there are
    several sources.
    """

    def __init__(self, sources: list[Source], steps_per_call: int = 1):
        self.sources, self.n = sources, steps_per_call
        self.num_batches = sources[0].num_batches
        self.fingerprint = "+".join(source.fingerprint for source in sources)
        first = sources[0]
        if any(s.num_batches != first.num_batches or s.batch_spec != first.batch_spec
               for s in sources):  # fmt: skip
            raise ConfigError(
                "lanes with data of their own need batches of one shape and number: run these "
                "apart (python -m flaxae.sweep --no-lanes)"
            )

    @property
    def leading(self) -> int:
        """Axes before the rows."""
        return (self.n > 1) + (len(self.sources) > 1)

    @property
    def batch_spec(self) -> Any:
        """Of one step of one lane."""
        return self.sources[0].batch_spec

    def batch(self, step: int) -> Any:
        steps = [self._step(step * self.n + i) for i in range(self.n)]
        return steps[0] if self.n == 1 else jax.tree.map(lambda *x: np.stack(x), *steps)

    def _step(self, step: int) -> Any:
        batches = [source.batch(step) for source in self.sources]
        return batches[0] if len(batches) == 1 else jax.tree.map(lambda *x: np.stack(x), *batches)
