"""Prompted lies against trained lies: how well do probes of truth detect each?

A lie is a wrong answer to a question that the base answers rightly when asked for the truth: the
base's rows verify the belief. Every answer is scored from the states of the side that gave it, by
the log odds that it is wrong according to the probe.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from flaxae.measures.stats import finite
from flaxae.models.probes.answers import right_answers
from flaxae.models.probes.fitted import Fitted
from flaxae.models.probes.fitting.base import log_odds
from flaxae.models.probes.fitting.ranking import Dummy
from flaxae.models.probes.interventions import Intervention
from flaxae.models.probes.metrics import control_threshold, intervals
from flaxae.models.probes.table import SIDES, StateTable, answer_threshold

MEASURES = ("bal_acc", "recall", "auroc")
Scores = Callable[[StateTable, str], np.ndarray]  # rows and side -> log odds of label 1


class Kind(NamedTuple):
    """Lies with the honest answers that they are compared with.

    Attributes:
        side: 0 if the base lies, 1 if the adapter does.
        asked: 1 if the prompts ask for a lie.
        honest: side of the honest answers, which are to prompts that ask for the truth.
    """

    side: int
    asked: int
    honest: int


PROMPTED = Kind(0, 1, 0)


def kinds_of(intervention: Intervention) -> dict[str, Kind]:
    """Return the kinds of lies of an intervention, by name.

    Flip and always-lie adapters lie without being asked. The others answer the truth unless a
    prompt asks for a lie, so that both of their kinds are prompted.
    """
    if intervention in (Intervention.FLIP, Intervention.ALWAYS_LIE):
        # Such an adapter has few honest answers of its own.
        return {
            "prompted": PROMPTED,
            "trained": Kind(1, 0, 1),
            "trained, honest answers of the base": Kind(1, 0, 0),
        }
    return {"prompted": PROMPTED, "prompted, with the adapter": Kind(1, 1, 1)}


def answer_cuts(table: StateTable) -> tuple[float, float]:
    """Return the thresholds of the base's and the adapter's answers, fitted on training rows."""
    train = table.training(lie=0)
    base = answer_threshold(train.p[0], train.labels)
    return base, answer_threshold(train.p[1], train.labels, signed=False)


def answered(
    table: StateTable, side: int, asked: int, right: bool, cuts: tuple[float, float]
) -> StateTable:
    """Return the right or the wrong answers of a side to questions that the base knows.

    Args:
        table: rows of one split.
        side: index in SIDES.
        asked: 1 for prompts that ask for a lie, else 0.
        right: whether the answers are right.
        cuts: see `answer_cuts`.
    """
    truthful, rows = table.where(lie=0), table.where(lie=asked)
    known = truthful["key"][right_answers(truthful.p[0], truthful.labels, cuts[0])]
    given = right_answers(rows.p[side], rows.labels, cuts[side])
    return rows.select((given == right) & np.isin(rows["key"], known))


def lies(
    table: StateTable,
    intervention: Intervention,
    fitted: Sequence[Fitted],
    dummy: Dummy,
    draws: int,
) -> dict[str, Any]:
    """Return how well probes of truth detect each kind of lies on the test rows.

    Args:
        table: all rows.
        intervention: what the adapter was trained for.
        fitted: probes of the arms base and adapter, each applied to the states of both sides.
        dummy: of the training rows.
        draws: resamples.

    Returns:
        {kind: {arm or "dummy": measures, with the number of lies, honest and control rows}}.
    """
    cuts = answer_cuts(table)
    ways: dict[str, Scores] = {
        one.arm: lambda rows, side, one=one: one.scores(rows, side) for one in fitted
    }
    ways["dummy"] = lambda rows, side: log_odds(dummy.predict_proba(rows.p)[:, 1])
    test, control = table.where(split="test"), table.where(split="control")
    out: dict[str, Any] = {}
    for name, kind in kinds_of(intervention).items():
        lying = answered(test, kind.side, kind.asked, False, cuts)
        honest = answered(test, kind.honest, 0, True, cuts)
        controls = answered(control, kind.honest, 0, True, cuts)
        sizes = {"lies": len(lying), "honest": len(honest), "controls": len(controls)}
        out[name] = {}
        for way, scores in ways.items():
            of_lies = _lying(scores, lying, kind.side, cuts)
            of_honest = _lying(scores, honest, kind.honest, cuts)
            of_controls = _lying(scores, controls, kind.honest, cuts)
            found = _measured(of_lies, of_honest, of_controls, (lying, honest), draws)
            out[name][way] = sizes | found
    return out


def _lying(
    scores: Scores, rows: StateTable, side: int, cuts: tuple[float, float]
) -> Float[np.ndarray, "N"]:
    """Return the log odds that the answers of a side are wrong."""
    if not len(rows):
        return np.zeros(0)
    odds = scores(rows, SIDES[side])
    return np.where(rows.p[side] > cuts[side], -odds, odds)


def _measured(
    of_lies: np.ndarray,
    of_honest: np.ndarray,
    of_controls: np.ndarray,
    tables: tuple[StateTable, StateTable],
    draws: int,
) -> dict[str, Any]:
    """Return the measures; they are None if there are no lies or no honest answers."""
    if not len(of_lies) or not len(of_honest):
        return {name: {"value": None, "low": None, "high": None} for name in MEASURES}
    cut = control_threshold(of_controls) if len(of_controls) else float("nan")
    scores, sizes = np.concatenate([of_lies, of_honest]), [len(of_lies), len(of_honest)]
    groups = np.concatenate([rows["group"] for rows in tables])
    labels = np.repeat([1, 0], sizes)
    found = intervals(scores, labels, groups, threshold=cut, draws=draws)
    return {name: finite(found[name].as_dict()) for name in MEASURES}
