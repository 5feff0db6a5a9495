"""A fitted probe: what it reads, what it was fitted on, and its scores of other rows."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.errors import require
from flaxae.models.probes.fitting.base import sigmoid
from flaxae.models.probes.fitting.networks import RANKING_LOSSES
from flaxae.models.probes.run_states import PAIRS
from flaxae.models.probes.table import ARMS, SIDES, FitRecord, StateTable, check_evaluation

KINDS = (
    "logistic",
    "mass_mean",
    "lda",
    "ttpd",
    "mlp",
    "layer_conv",
    *(f"ranking_{loss}" for loss in RANKING_LOSSES),
    "ccs",
    "weighted",
    "selected",
    "layer_diff",
)
REGRESSIONS = ("logistic", "weighted", "selected", "layer_diff")
BOTH_SIDES = tuple(f"ranking_{loss}" for loss in RANKING_LOSSES)


def chosen_arm(kind: str, arm: str | None) -> str:
    """Return the arm that a kind of probe reads.

    Args:
        kind: one of KINDS.
        arm: see `StateTable.features`; None: that of the kind, or the adapter.

    Raises:
        ConfigError: if there is no such kind or arm, or the kind reads another one.
    """
    require(kind in KINDS, f"probe {kind!r} is not one of {', '.join(KINDS)}")
    only = "both" if kind in BOTH_SIDES else "base" if kind == "ccs" else None
    if arm is None:
        return only or "adapter"
    require(arm in ARMS, f"arm {arm!r} is not one of {', '.join(ARMS)}")
    require(only in (None, arm), f"probe {kind} reads arm {only}, not {arm}: leave the arm out")
    return arm


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A probe with what it reads and the rows that it was fitted on.

    Attributes:
        kind: one of KINDS, or "sae".
        probe: the probe.
        hook: name of the hidden states.
        arm: see `StateTable.features`.
        layers: the layers that it reads; two for the difference of layers.
        record: the rows that it was fitted on.
        encode: maps the states of one layer to what the probe reads; None: it reads the states.
        polarity: (1,) if it was fitted on affirmative statements only, else (1, -1).
    """

    kind: str
    probe: Any
    hook: str
    arm: str
    layers: tuple[int, ...]
    record: FitRecord
    encode: Callable[[np.ndarray], np.ndarray] | None = None
    polarity: tuple[int, ...] = (1, -1)

    def scores(self, table: StateTable, side: str | None = None) -> Float[np.ndarray, "N"]:
        """Return the log odds of label 1 of rows that the probe was not fitted on.

        Args:
            table: the rows.
            side: the side whose states are read, of a probe of one side; None: its own.

        Raises:
            ConfigError: if it was fitted on one of them, see `table.check_evaluation`.
        """
        check_evaluation(self.record, table)
        if side is not None:
            require(
                self.arm in SIDES and self.kind != "ccs",
                f"a probe of arm {self.arm} cannot read the states of one side",
            )
        return np.asarray(self._scores(table, side or self.arm), np.float64)

    def _scores(self, table: StateTable, arm: str) -> Float[np.ndarray, "N"]:
        if self.kind in BOTH_SIDES:
            return self.probe.truth_scores(table.sides(self.hook, self.layers[0]), table.p)
        if self.kind == "ccs":
            x = table.sides(f"{PAIRS}{self.hook}", self.layers[0])
            require(not np.isnan(x).any(), "CCS reads prompts that ask for the truth only")
            return self.probe.scores(x)
        x = table.features(self.hook, arm)
        if self.kind == "layer_conv":
            return self.probe.scores(np.moveaxis(x, 0, 1))
        at = table.layers.index(self.layers[-1])
        one = x[at] - x[at - 1] if self.kind == "layer_diff" else x[at]
        return self.probe.scores(one if self.encode is None else self.encode(one))

    def proba(self, table: StateTable) -> Float[np.ndarray, "N"]:
        """Return the probability of label 1, see `scores`."""
        return sigmoid(self.scores(table))
