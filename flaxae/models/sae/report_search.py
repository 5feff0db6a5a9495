"""Search for the value of a field at which a dictionary has a wanted L0."""

import math

LANES = 3  # values per round, which train as lanes of one program
CLOSE = 2.0  # ratio of the two values around the target at which the search ends
ROUNDS = 5
FLOOR = 0.1  # an L0 of 0 has no logarithm
SLOPE = -1.0  # d log L0 / d log weight, where the pilots do not have the target between them
Point = tuple[float, float | None]  # value of the field, L0; None: the pilot diverged
Measured = tuple[float, float]


def next_values(
    points: list[Point], first: tuple[float, float], target: float
) -> list[float] | None:
    """Return the values of the next round of pilots; None: the search has ended.

    The first round covers a range; each later one divides the part in which L0 crosses the target,
    or continues beyond the end that is nearer to it.

    Args:
        points: value and L0 of each pilot so far; L0 decreases with the value. Pilots that
            diverged are left out; if all did, smaller values follow.
        first: the range of the first round.
        target: the wanted L0.
    """
    if not points:
        return _between(*first, LANES)
    if len(points) >= ROUNDS * LANES:
        return None
    found = bracket(points, target)
    if found is not None:
        (low, _), (high, _) = found
        if high / low <= CLOSE:
            return None
        return _untried(_between(low, high, LANES + 2)[1:-1], points)
    values, span = sorted(value for value, _ in points), first[1] / first[0]
    known = measured(points)
    if known and min(l0 for _, l0 in known) > target:
        above = [value for value in values if value > max(known)[0]]  # these diverged
        if above:
            low, high = max(known)[0], above[0]
            return _between(low, high, LANES + 2)[1:-1] if high / low > CLOSE else None
        return _between(values[-1], values[-1] * span, LANES + 1)[1:]
    return _between(values[0] / span, values[0], LANES + 1)[:-1]


def measured(points: list[Point]) -> list[Measured]:
    """Return the points of pilots that did not diverge."""
    return [(value, l0) for value, l0 in points if l0 is not None]


def _untried(values: list[float], points: list[Point]) -> list[float] | None:
    """Return the values without a pilot; None if there are none."""
    tried = {value for value, _ in points}
    return [value for value in values if value not in tried] or None


def bracket(points: list[Point], target: float) -> tuple[Measured, Measured] | None:
    """Return the neighbours, by value, between which L0 falls below the target; None: none do."""
    ordered = sorted(measured(points))
    pairs = zip(ordered, ordered[1:], strict=False)
    return next((pair for pair in pairs if pair[0][1] >= target > pair[1][1]), None)


def solution(points: list[Point], target: float) -> tuple[float, float]:
    """Return the value at which L0 is the target, and the slope of log L0 by log value there.

    Both are those of the line between the two neighbours of the target. If no pilots have the
    target between them, it is the value of the nearest one.
    """
    found = bracket(points, target)
    if found is None:
        nearest = min(
            measured(points), key=lambda point: abs(math.log(max(point[1], FLOOR) / target))
        )
        return nearest[0], SLOPE
    (low, much), (high, little) = found
    slope = math.log(max(little, FLOOR) / max(much, FLOOR)) / math.log(high / low)
    return corrected(low, much, target, slope), slope


def corrected(value: float, l0: float, target: float, slope: float) -> float:
    """Return a better value of a field by the L0 that it led to.

    Args:
        value: the field's value.
        l0: the L0 of the run.
        target: the wanted L0.
        slope: d log L0 / d log value.
    """
    factor = (target / max(l0, FLOOR)) ** (1 / slope)
    return float(f"{value * min(max(factor, 0.25), 4.0):.4g}")


def _between(low: float, high: float, count: int) -> list[float]:
    """Return values in a geometric sequence, with both ends."""
    ratio = (high / low) ** (1 / (count - 1))
    return [float(f"{low * ratio**i:.4g}") for i in range(count)]
