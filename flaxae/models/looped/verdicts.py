"""Claims about trained runs, with intervals over seeds: confirmed, refuted or unclear.

Errors differ by factors, so all statistics are on a logarithmic scale: means are geometric, claims
are about ratios, and intervals are t intervals at 95 %.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from flaxae.measures import stats
from flaxae.measures.claims import look_up, number, verdict

EQUAL_STEPS = "curve at equal steps"  # a claim's path: see `at_step`
WINDOW = 0.1  # share of the steps to average over: one training batch is too noisy
Results = dict[str, list[dict[str, Any]]]  # run -> one dict of measures per seed


def at_step(curve: dict[str, Any], steps: int) -> float:
    """Return the mean training error over the last tenth of the first steps.

    Args:
        curve: a measure "curve".
        steps: number of first steps.

    Returns:
        The mean, nan if nothing was logged there.
    """
    at, error = np.asarray(curve["steps"]), np.asarray(curve["error"], np.float64)
    taken = error[(at > steps * (1 - WINDOW)) & (at <= steps)]
    return float(taken.mean()) if len(taken) else math.nan


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean of positive numbers and its interval (nan for one number)."""
    found = stats.t_interval(np.log(np.asarray(values, np.float64)))
    return math.exp(found.value), math.exp(found.low), math.exp(found.high)


def ratio_interval(
    top: list[float], bottom: list[float], paired: bool
) -> tuple[float, float, float]:
    """Return a ratio of geometric means and its interval.

    Args:
        top: numerators, one per seed.
        bottom: denominators, one per seed.
        paired: whether both belong to the same runs; otherwise the interval is Welch's.

    Returns:
        Ratio, lower and upper end.
    """
    a, b = (np.log(np.asarray(x, np.float64)) for x in (top, bottom))
    if paired:
        return mean_interval(list(np.exp(a - b)))
    centre = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return math.exp(centre), math.nan, math.nan
    parts = [x.var(ddof=1) / len(x) for x in (a, b)]
    total = sum(parts)
    freedom = total**2 / max(
        sum(p**2 / (len(x) - 1) for p, x in zip(parts, (a, b), strict=True)), 1e-300
    )
    half = stats.t_quantile(max(freedom, 1.0)) * total**0.5
    return math.exp(centre), math.exp(centre - half), math.exp(centre + half)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim that top / bottom is below (or above) a bound.

    Attributes:
        text: the claim as a sentence.
        top: (run, path of a number); the path EQUAL_STEPS means the training error after the number
            of steps of the shorter run.
        bottom: the same of the denominator.
        bound: bound of the ratio.
        below: whether the ratio is claimed to be below the bound, or above.
    """

    text: str
    top: tuple[str, str]
    bottom: tuple[str, str]
    bound: float = 1.0
    below: bool = True

    def evaluate(self, results: Results) -> dict[str, Any]:
        """Return the ratio with its interval, and the verdict.

        A claim is confirmed or refuted if the bound is outside of the interval, else unclear.
        """
        ends = (self.top, self.bottom)
        steps = min(
            (f["curve"]["trained"] for run, _ in ends for f in results[run] if "curve" in f),
            default=0,
        )

        def number_of(found: dict[str, Any], path: str) -> float:
            if path == EQUAL_STEPS:
                return at_step(found["curve"], steps)
            return look_up(found, path)

        top, bottom = ([number_of(found, path) for found in results[run]] for run, path in ends)
        paired = self.top[0] == self.bottom[0]
        out: dict[str, Any] = {"claim": self.text, "bound": self.bound, "below": self.below}
        if not all(math.isfinite(x) and x > 0 for x in top + bottom):
            nothing = dict.fromkeys(("ratio", "low", "high"), math.nan)
            return out | nothing | {"verdict": "unclear"}
        ratio, low, high = ratio_interval(top, bottom, paired)
        found = verdict(low, high, self.bound, self.below)
        return out | {"ratio": ratio, "low": low, "high": high, "verdict": found}


def cell(values: list[float]) -> str:
    """Format the geometric mean and [interval]; seeds without a number are counted."""
    known = [x for x in values if math.isfinite(x) and x > 0]
    if not known:
        return "-"
    mean, low, high = mean_interval(known)
    text = number(mean) + (f" [{number(low)}, {number(high)}]" if math.isfinite(low) else "")
    return text + (f" ({len(values) - len(known)} never)" if len(known) < len(values) else "")
