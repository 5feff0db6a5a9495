"""Claims about trained runs, with intervals over seeds: confirmed, refuted or unclear.

Errors differ by factors, so everything is taken on a logarithmic scale: a mean is a geometric mean,
a claim is about a ratio, and the interval is Student's at 95 %.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from flaxae.measures import stats

EQUAL_STEPS = "curve at equal steps"  # a claim's path: see `at_step`
WINDOW = 0.1  # of the steps so far: a training batch by itself is too noisy
Results = dict[str, list[dict[str, Any]]]  # run -> for each seed, measure -> what was measured


def look_up(found: dict[str, Any], path: str) -> float:
    """A measure's number by its dotted path, nan where it has none; "a over b" is a ratio."""
    if " over " in path:
        top, bottom = (look_up(found, part) for part in path.split(" over "))
        return top / bottom if bottom else math.nan
    node: Any = found
    for part in path.split("."):
        if isinstance(node, list):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return math.nan
    return math.nan if node is None else float(node)


def at_step(curve: dict[str, Any], steps: int) -> float:
    """Mean training error of the last tenth of the first `steps` steps; of a measure "curve"."""
    at, error = np.asarray(curve["steps"]), np.asarray(curve["error"], np.float64)
    taken = error[(at > steps * (1 - WINDOW)) & (at <= steps)]
    return float(taken.mean()) if len(taken) else math.nan


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """Geometric mean of positive numbers, and its interval; one number has none (nan)."""
    found = stats.t_interval(np.log(np.asarray(values, np.float64)))
    return math.exp(found.value), math.exp(found.low), math.exp(found.high)


def ratio_interval(
    top: list[float], bottom: list[float], paired: bool
) -> tuple[float, float, float]:
    """Ratio of geometric means and its interval: paired by seed, or Welch's."""
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
    """top / bottom is below (or above) a bound.

    Attributes:
        text: the claim in words.
        top, bottom: (run, path of a measure). EQUAL_STEPS is the training error after as many steps
            as the shorter of both runs has.
        bound: of the ratio.
        below: the ratio is claimed to be below the bound, else above.
    """

    text: str
    top: tuple[str, str]
    bottom: tuple[str, str]
    bound: float = 1.0
    below: bool = True

    def judge(self, results: Results) -> dict[str, Any]:
        """The ratio with its interval, and the verdict: where the bound lies outside of it."""
        ends = (self.top, self.bottom)
        steps = min(
            (f["curve"]["trained"] for run, _ in ends for f in results[run] if "curve" in f),
            default=0,
        )
        top, bottom = (
            [at_step(found["curve"], steps) if path == EQUAL_STEPS else look_up(found, path)
             for found in results[run]]
            for run, path in ends
        )  # fmt: skip
        paired = self.top[0] == self.bottom[0]
        out: dict[str, Any] = {"claim": self.text, "bound": self.bound, "below": self.below}
        if not all(math.isfinite(x) and x > 0 for x in top + bottom):
            return out | {"ratio": math.nan, "low": math.nan, "high": math.nan,
                          "verdict": "unclear"}  # fmt: skip
        ratio, low, high = ratio_interval(top, bottom, paired)
        verdict = "unclear"
        if high < self.bound:
            verdict = "confirmed" if self.below else "refuted"
        elif low > self.bound:
            verdict = "refuted" if self.below else "confirmed"
        return out | {"ratio": ratio, "low": low, "high": high, "verdict": verdict}


def number(x: float) -> str:
    """Three digits; "-" where there is none."""
    return "-" if not math.isfinite(x) else f"{x:.3g}" if x < 1000 else f"{x:.0f}"


def cell(values: list[float]) -> str:
    """A table's cell: geometric mean [interval]; counts the seeds that have no such number."""
    known = [x for x in values if math.isfinite(x) and x > 0]
    if not known:
        return "-"
    mean, low, high = mean_interval(known)
    text = number(mean) + (f" [{number(low)}, {number(high)}]" if math.isfinite(low) else "")
    return text + (f" ({len(values) - len(known)} never)" if len(known) < len(values) else "")


def claims_table(judged: list[dict[str, Any]]) -> str:
    """Markdown: a row a claim."""
    lines = ["| claim | ratio, 95 % interval over seeds | bound | verdict |", "|---|---|---|---|"]
    for row in judged:
        sign = "<" if row["below"] else ">"
        interval = f"{number(row['ratio'])} [{number(row['low'])}, {number(row['high'])}]"
        lines.append(
            f"| {row['claim']} | {interval} | {sign} {row['bound']:g} | **{row['verdict']}** |"
        )
    return "\n".join(lines) + "\n"
