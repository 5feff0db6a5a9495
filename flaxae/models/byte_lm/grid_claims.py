"""Effects of the grid's factors and the findings of an older grid, from numbers.

Numbers are bits per byte by cell: lower is better.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxae.measures import stats
from flaxae.measures.claims import claims_table, verdict
from flaxae.measures.stats import Interval
from flaxae.models.byte_lm.grid_bet import Bits, triple, triple_means
from flaxae.models.byte_lm.grid_cells import FACTORS, Cell
from flaxae.models.byte_lm.recurrence import Dynamic

MARGIN = 0.01  # bits per byte; a smaller difference does not count as help
A_LOT = 0.1


class Effect(NamedTuple):
    """A difference of mean bits per byte between two settings that are equal in all else.

    Attributes:
        interval: the difference with its 95 % interval.
        pairs: number of exact pairs (of triples of k, except for k itself), where pairs that share
            a cell are averaged and count as one; 0: by least squares on balanced cells.
    """

    interval: Interval
    pairs: int


def effect(bits: Bits, factor: str, levels: Sequence[Any], against: Sequence[Any]) -> Effect:
    """Return the effect of some levels of a factor against others, averaged over both.

    Cells that differ only in the factor share cells in their pairs, which are not independent:
    their mean is one row of the bootstrap. Levels without a whole triple are left out, for example
    that of a dynamic whose cells all diverge.

    Args:
        bits: the numbers.
        factor: the factor.
        levels: the levels.
        against: the levels to compare with.
    """
    if factor == "bptt":
        first = {cell for cell in bits if triple(bits, cell) is not None}
        values = {cell: bits[cell] for cell in first}
    else:
        values = triple_means(bits)
    known = {getattr(cell, factor) for cell in values}
    levels, against = ([x for x in each if x in known] for each in (levels, against))
    mine = [cell for cell in values if getattr(cell, factor) in levels]
    pairs: dict[Cell, list[float]] = {}  # by all other factors
    for cell in mine:
        for level in against:
            if (other := cell._replace(**{factor: level})) in values:
                rest = cell._replace(**{factor: against[0]})
                pairs.setdefault(rest, []).append(values[cell] - values[other])
    found = sum(map(len, pairs.values()))
    if factor == "bptt" or (found and 2 * found >= len(mine) * len(against)):
        rows = [sum(each) / len(each) for each in pairs.values()]
        return Effect(stats.bootstrap(rows), len(rows))
    return Effect(least_squares(values, factor, levels, against), 0)


def least_squares(
    values: Bits, factor: str, levels: Sequence[Any], against: Sequence[Any]
) -> Interval:
    """Return an effect by a linear model without interactions, with a 95 % t interval.

    Args:
        values: means of triples; the levels of their factors are balanced.
        factor: the factor.
        levels: its levels; [] or levels of cells.
        against: the levels to compare with.
    """
    unknown = Interval(math.nan, math.nan, math.nan)
    if not levels or not against:
        return unknown
    columns = [
        (name, level)
        for name, all_levels in FACTORS.items()
        if name != "bptt"
        for level in [x for x in all_levels if any(getattr(c, name) == x for c in values)][1:]
    ]
    rows = [[1.0, *(float(getattr(cell, f) == x) for f, x in columns)] for cell in values]
    x, y = np.asarray(rows), np.asarray(list(values.values()))
    contrast = np.asarray(
        [0.0]
        + [
            (f == factor) * ((x in levels) / len(levels) - (x in against) / len(against))
            for f, x in columns
        ]
    )
    freedom = len(y) - x.shape[1]
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return unknown
    inverse = np.linalg.inv(x.T @ x)
    found = inverse @ x.T @ y
    value = float(contrast @ found)
    if freedom < 1:
        return Interval(value, math.nan, math.nan)
    variance = float(np.square(y - x @ found).sum()) / freedom
    half = stats.t_quantile(freedom) * math.sqrt(variance * float(contrast @ inverse @ contrast))
    return Interval(value, value - half, value + half)


def effects_table(bits: Bits) -> str:
    """Format the main effects as a Markdown table: each level against the factor's first."""
    lines = [
        "| factor | level | against | difference, bits per byte [95 %] | pairs |",
        "|---" * 5 + "|",
    ]
    for factor, all_levels in FACTORS.items():
        for low, high in itertools.combinations(all_levels, 2):
            found = effect(bits, factor, [high], [low])
            if math.isfinite(found.interval.value):
                pairs = found.pairs or "least squares"
                cells = [factor, level_name(factor, high), level_name(factor, low)]
                lines.append(f"| {' | '.join(cells)} | {found.interval} | {pairs} |")
    return "\n".join(lines) + "\n"


def level_name(factor: str, level: Any) -> str:
    """Return the name of a level in tables."""
    if factor == "hidden":
        return f"linear, H = {level}" if level else "state"
    return level.value if isinstance(level, Dynamic) else str(level).lower()


def findings(bits: Bits) -> str:
    """Format the verdicts on five findings of an older grid as a Markdown table."""
    same_size = {c: b for c, b in bits.items() if c.hidden in (0, c.states)}
    gated = [Dynamic.GATED, Dynamic.DOUBLY_GATED]
    claims = [
        ("forgetting gates help", effect(bits, "dynamic", gated, [Dynamic.TANH]), 0.0, True),
        (
            "reading the new state helps a lot",
            effect(bits, "same_step", [True], [False]),
            -A_LOT,
            True,
        ),
        ("an output that also reads x helps", skip_effect(bits, same_size), 0.0, True),
        (
            "output gates do not help",
            effect(bits, "output_gate", [True], [False]),
            -MARGIN,
            False,
        ),
        ("2 layers are as good as 3", effect(bits, "layers", [2], [3]), MARGIN, True),
    ]
    rows = []
    for text, found, bound, below in claims:
        mean, low, high = found.interval.value, found.interval.low, found.interval.high
        known = verdict(low, high, bound, below) if math.isfinite(mean) else "not measured"
        row = {"claim": text, "difference": mean, "low": low, "high": high}
        rows.append(row | {"bound": bound, "below": below, "verdict": known})
    return claims_table(rows, "difference").replace("over seeds", "over cells")


def skip_effect(bits: Bits, same_size: Bits) -> Effect:
    """Return the effect of a linear output that reads r and x, against the state as output.

    Args:
        bits: all numbers.
        same_size: those with as many hidden features as states, or the state as output: if there
            are enough pairs, only these are compared.
    """
    means = triple_means(same_size)
    linear = [cell for cell in means if cell.hidden]
    others = [cell._replace(hidden=0) for cell in linear]
    pairs = [
        means[cell] - means[other]
        for cell, other in zip(linear, others, strict=True)
        if other in means
    ]
    if pairs and 2 * len(pairs) >= len(linear):
        return Effect(stats.bootstrap(pairs), len(pairs))
    return effect(bits, "hidden", FACTORS["hidden"][1:], [0])
