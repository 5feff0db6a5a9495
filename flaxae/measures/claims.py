"""Cells of tables and verdicts of claims, with t intervals over seeds at 95 %."""

import math
from collections.abc import Sequence
from typing import Any

from flaxae.measures import stats


def look_up(found: dict[str, Any], path: str) -> float:
    """Return a number of the measures.

    Args:
        found: the measures of one run.
        path: dotted path of the number; "a over b" is the ratio of two.

    Returns:
        The number, nan if there is none.
    """
    if " over " in path:
        top, bottom = (look_up(found, part) for part in path.split(" over "))
        return top / bottom if bottom else math.nan
    node: Any = found
    for part in path.split("."):
        if isinstance(node, list):
            if int(part) >= len(node):
                return math.nan
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return math.nan
    return math.nan if node is None else float(node)


def cell(values: Sequence[float | None]) -> str:
    """Format the mean over seeds with Student's 95 % interval, if there are several."""
    numbers = [v for v in values if v is not None]
    if not numbers:
        return "n/a"
    largest = max(map(abs, numbers))
    form = "{:.0f}" if largest >= 100 else "{:.1f}" if largest >= 10 else "{:.3f}"
    found = stats.t_interval(numbers)
    mean, low, high = (form.format(x) for x in (found.value, found.low, found.high))
    return f"{mean} [{low}, {high}]" if len(numbers) > 1 else mean


def number(x: float) -> str:
    """Format a number with three digits, or "-" if it is not finite."""
    return "-" if not math.isfinite(x) else f"{x:.3g}" if x < 1000 else f"{x:.0f}"


def verdict(low: float, high: float, bound: float, below: bool) -> str:
    """Return "confirmed" or "refuted" if the bound is outside of the interval, else "unclear".

    Args:
        low: lower end of the interval, nan if it is unknown.
        high: upper end.
        bound: bound of the number.
        below: whether the number is claimed to be below the bound, or above.
    """
    if high < bound:
        return "confirmed" if below else "refuted"
    if low > bound:
        return "refuted" if below else "confirmed"
    return "unclear"


def claims_table(verdicts: list[dict[str, Any]], quantity: str = "ratio") -> str:
    """Format verdicts as a Markdown table, one row per claim.

    Args:
        verdicts: "claim", "low", "high", "bound", "below", "verdict", and the number under the
            name `quantity`.
        quantity: name of the number.
    """
    lines = [
        f"| claim | {quantity}, 95 % interval over seeds | bound | verdict |",
        "|---|---|---|---|",
    ]
    for row in verdicts:
        sign = "<" if row["below"] else ">"
        interval = f"{number(row[quantity])} [{number(row['low'])}, {number(row['high'])}]"
        lines.append(
            f"| {row['claim']} | {interval} | {sign} {row['bound']:g} | **{row['verdict']}** |"
        )
    return "\n".join(lines) + "\n"
