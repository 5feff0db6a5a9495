"""Measures of a model's answers to questions with two choices."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from flaxae.errors import require
from flaxae.models.probes.metrics import auroc_of, balanced_accuracy


class Answers(NamedTuple):
    """Answers of one side, base or adapter.

    Attributes:
        p: p1 / (p0 + p1) of each prompt, (N,).
        cov: p0 + p1, (N,).
        label: index of the right choice, (N,).
        lie: 1 for prompts that ask for a lie, (N,).
    """

    p: Float[np.ndarray, "N"]
    cov: Float[np.ndarray, "N"]
    label: Int[np.ndarray, "N"]
    lie: Int[np.ndarray, "N"]


def answer_measures(answers: Answers, known: Bool[np.ndarray, "N"]) -> dict[str, float]:
    """Return measures of answers.

    Args:
        answers: the answers.
        known: True for prompts of examples that the base answers rightly when asked for the truth.

    Returns:
        truth_acc, truth_bal_acc and truth_auroc of prompts that ask for the truth; lie_acc, the
        share of prompts that ask for a lie and get one; known_lie_acc, the same for known examples;
        balance, the share of answers that are choice 1; choice_cov, the mean of p0 + p1. They are
        nan if no prompt is of that kind.
    """
    given = answers.p > 0.5
    right = given == (answers.label > 0)
    lie = answers.lie > 0
    truth = ~lie
    return {
        "truth_acc": _mean(right[truth]),
        "truth_bal_acc": balanced_accuracy(given[truth], answers.label[truth] > 0),
        "truth_auroc": auroc_of(answers.p[truth], answers.label[truth]),
        "lie_acc": _mean(~right[lie]),
        "known_lie_acc": _mean(~right[lie & known]),
        "balance": _mean(given),
        "choice_cov": _mean(answers.cov),
    }


def right_answers(
    p: Float[np.ndarray, "N"], label: Int[np.ndarray, "N"], threshold: float = 0.5
) -> Bool[np.ndarray, "N"]:
    """Return whether answers are right. An example is known if the base's truthful answer is.

    Args:
        p: probability of choice 1.
        label: index of the right choice.
        threshold: probability above which the answer is choice 1, see `table.answer_threshold`.
    """
    return (np.asarray(p) > threshold) == (np.asarray(label) > 0)


def known_of(base: Answers, threshold: float = 0.5) -> Bool[np.ndarray, "N"]:
    """Return True for prompts of examples that the base answers rightly when asked for the truth.

    Args:
        base: the base's answers; the two prompts of an example are adjacent, the truthful one
            first.
        threshold: see `right_answers`; the log of a training has no training answers to fit it.

    Raises:
        ConfigError: if the prompts are not in pairs.
    """
    require(
        len(base.lie) % 2 == 0 and not base.lie[::2].any() and bool(base.lie[1::2].all()),
        "prompts are not in pairs of a truthful one and a lie: evaluate whole splits, or an even "
        "number of rows",
    )
    return np.repeat(right_answers(base.p, base.label, threshold)[::2], 2)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
