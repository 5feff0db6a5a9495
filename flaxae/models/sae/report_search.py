"""Search for the value of a field at which a dictionary has a wanted L0."""

import math

LANES = 3  # values per round, which train as lanes of one program
CLOSE = 2.0  # ratio of the two values around the target at which the search ends
ROUNDS = 5
FLOOR = 0.1  # an L0 of 0 has no logarithm
SLOPE = -1.0  # d log L0 / d log weight, where the pilots do not have the target between them
Point = tuple[float, float]  # value of the field, L0


def next_values(
    points: list[Point], first: tuple[float, float], target: float
) -> list[float] | None:
    """Return the values of the next round of pilots; None: the search has ended.

    The first round covers a range; each later one divides the part in which L0 crosses the target,
    or continues beyond the end that is nearer to it.

    Args:
        points: value and L0 of each pilot so far; L0 decreases with the value.
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
        return _between(low, high, LANES + 2)[1:-1]
    values = sorted(value for value, _ in points)
    span = first[1] / first[0]
    if min(l0 for _, l0 in points) > target:
        return _between(values[-1], values[-1] * span, LANES + 1)[1:]
    return _between(values[0] / span, values[0], LANES + 1)[:-1]


def bracket(points: list[Point], target: float) -> tuple[Point, Point] | None:
    """Return the neighbours, by value, between which L0 falls below the target; None: none do."""
    ordered = sorted(points)
    pairs = zip(ordered, ordered[1:], strict=False)
    return next((pair for pair in pairs if pair[0][1] >= target > pair[1][1]), None)


def solution(points: list[Point], target: float) -> tuple[float, float]:
    """Return the value at which L0 is the target, and the slope of log L0 by log value there.

    Both are those of the line between the two neighbours of the target. If no pilots have the
    target between them, it is the value of the nearest one.
    """
    found = bracket(points, target)
    if found is None:
        nearest = min(points, key=lambda point: abs(math.log(max(point[1], FLOOR) / target)))
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
