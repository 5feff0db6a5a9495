"""The bet that k = 2 is best, from numbers by cell; which cells diverged.

Numbers are bits per byte by cell: lower is better.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from flaxae.measures import stats
from flaxae.measures.stats import Interval
from flaxae.models.byte_lm.grid_cells import FACTORS, Cell

Bits = dict[Cell, float]
Curve = Sequence[tuple[float, float]]  # bytes of training, bits per byte
UNIFORM = 8.0  # bits per byte of a model that gives all 256 bytes the same probability


def has_diverged(value: float | None) -> bool:
    """Return whether bits per byte are those of a run that diverged.

    Args:
        value: bits per byte of a split; None: not finite.
    """
    return value is None or not value <= UNIFORM


def triple_means(bits: Bits) -> Bits:
    """Return the mean over k of each whole triple, under the cell with k = 0."""
    out = {}
    for cell in bits:
        base, values = cell._replace(bptt=0), triple(bits, cell)
        if values is not None:
            out[base] = sum(values) / len(values)
    return out


def triple(bits: Bits, cell: Cell) -> list[float] | None:
    """Return the numbers of the cells that differ from a cell in k at most, or None."""
    cells = [cell._replace(bptt=k) for k in FACTORS["bptt"]]
    return [bits[x] for x in cells] if all(x in bits for x in cells) else None


class Bet(NamedTuple):
    """The bet that k = 2 is best, over triples of cells that are equal in all else.

    Attributes:
        below_one: bits per byte with k = 2, minus those with k = 1.
        below_four: the same, minus those with k = 4.
        triples: number of triples.
    """

    below_one: Interval
    below_four: Interval
    triples: int

    @property
    def outcome(self) -> str:
        """Won if both intervals are below 0, lost if one is above, else open."""
        both = (self.below_one, self.below_four)
        if all(x.high < 0 for x in both):
            return "won"
        return "lost" if any(x.low > 0 for x in both) else "open"

    @classmethod
    def of(cls, bits: Bits) -> "Bet":
        """Return the bet over all whole triples; triples are resampled."""
        found = np.asarray([triple(bits, cell) for cell in triple_means(bits)])
        if not len(found):
            nothing = Interval(math.nan, math.nan, math.nan)
            return cls(nothing, nothing, 0)
        one, two, four = found.T
        return cls(stats.bootstrap(two - one), stats.bootstrap(two - four), len(found))


def bet_table(tables: dict[str, Bits]) -> str:
    """Format the bet as a Markdown table, one row per way to compare."""
    lines = [
        "| comparison | triples | CE(2) - CE(1) [95 %] | CE(2) - CE(4) [95 %] | k = 2 is best |",
        "|---" * 5 + "|",
    ]
    for name, bits in tables.items():
        bet = Bet.of(bits)
        shown = [str(bet.triples), str(bet.below_one), str(bet.below_four), f"**{bet.outcome}**"]
        lines.append(f"| {name} | {' | '.join(shown if bet.triples else ['0', '', '', ''])} |")
    return "\n".join(lines) + "\n"


def reference(bits: Bits) -> str:
    """Return a sentence on k = U, which is outside the bet; "" without such cells."""
    longest = max(FACTORS["bptt"])
    pairs = [
        value - bits[other]
        for cell, value in bits.items()
        if cell.bptt > longest and (other := cell._replace(bptt=longest)) in bits
    ]
    if not pairs:
        return ""
    return (
        f"Gradients through whole updates, outside the bet: CE(U) - CE({longest}) = "
        f"{stats.bootstrap(pairs)} over {len(pairs)} pairs.\n"
    )


def windows(bits: Bits, window: Bits) -> str:
    """Return a sentence on windows of k bytes, which are no part of the bet; "" without such cells.

    Args:
        bits: numbers of cells whose gradients are cut at multiples of k.
        window: numbers of cells whose gradients reach k - 1 bytes back from each byte.
    """
    found = {}
    for cell in window:
        if cell in bits:
            found.setdefault(cell.bptt, []).append(window[cell] - bits[cell])
    if not found:
        return ""
    each = [f"k = {k}: {stats.bootstrap(x)} over {len(x)} cells" for k, x in sorted(found.items())]
    return (
        "Gradients that reach k - 1 bytes back from each byte, minus those cut at multiples of k, "
        f"in bits per byte: {'; '.join(each)}.\n"
    )


def at_equal_time(curves: dict[Cell, Curve], rates: Callable[[Cell], float | None]) -> Bits:
    """Return bits per byte of the cells of each triple after the same time of training.

    The time is that in which the fastest cell of the triple reads all bytes of its curve. The
    others have read fewer; their number is read off their curves, linearly in the logarithms.

    Args:
        curves: learning curves.
        rates: bytes per second of a cell's program, or None.
    """
    out = {}
    for cell in dict.fromkeys(cell._replace(bptt=0) for cell in curves):
        cells = [cell._replace(bptt=k) for k in FACTORS["bptt"]]
        speeds = [rates(x) for x in cells]
        if not all(x in curves and len(curves[x]) for x in cells) or None in speeds:
            continue
        known = [speed or math.nan for speed in speeds]
        seconds = min(curves[x][-1][0] / speed for x, speed in zip(cells, known, strict=True))
        for x, speed in zip(cells, known, strict=True):
            at, bits = np.log(np.asarray(curves[x], np.float64)).T
            out[x] = float(np.exp(np.interp(math.log(seconds * speed), at, bits)))
    return out


def capped(bits: Bits, diverged: Iterable[Cell]) -> str:
    """Return a sentence on the bet in which no triple is left out; "" if no cell diverged.

    Args:
        bits: numbers of the other cells.
        diverged: cells that diverged; they count as uniform distributions.
    """
    cells = [*diverged]
    if not cells:
        return ""
    bet = Bet.of(bits | dict.fromkeys(cells, UNIFORM))
    return (
        f"If cells that diverged count as {UNIFORM:g} bits per byte (a uniform distribution) and "
        f"no triple is left out, with equal updates: CE(2) - CE(1) = {bet.below_one}, CE(2) - "
        f"CE(4) = {bet.below_four} over {bet.triples} triples, {bet.outcome}.\n"
    )
