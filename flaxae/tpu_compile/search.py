"""The largest batch that fits a slice, with few programs compiled."""

from typing import Any

from flaxae.config import Config, copy_config
from flaxae.tpu_compile import program
from flaxae.tpu_compile.chips import chip_of

SECANTS = 4  # programs that are chosen by a line through what is known; after them it bisects


def find_batch(
    config: Config, name: str, *, effort: float = 0.0, slices: int = 1, say: Any = None
) -> program.Report:
    """The largest batch that fits, to an eighth.

    Memory grows nearly linearly with the rows, so the next size to try is where a line through the
    known ones meets the chip's memory; where that does not end the search, it bisects.

    Args:
        config, name, effort, slices: see `analyse`; the search starts from the config's own batch.
        say: called with a line after every program.

    Returns:
        The report of that batch's program.

    Raises:
        DoesNotFit: not even the smallest batch does.
    """
    shards = len(program.topology(name, slices))
    room = chip_of(name).hbm
    unit = config.data.num_buckets * config.accumulate
    best: program.Report | None = None
    needed: dict[int, float] = {}  # rows a device -> bytes
    low, high, tries = 0, 0, 0
    rows = max(unit, config.data.batch_size // shards // unit * unit)
    while True:
        tries += 1
        changed = copy_config(config, {"data.batch_size": rows * shards})
        try:
            best, low = program.analyse(changed, name, effort=effort, slices=slices), rows
            needed |= {0: best.argument_bytes, rows: best.hbm_bytes}
            line = f"{rows} rows a device fit: {best.hbm_bytes / 2**30:.2f} GiB"
        except program.DoesNotFit as error:
            high = rows
            if error.needed:
                needed[rows] = error.needed
            line = f"{rows} rows a device do not fit"
            if rows == unit:
                raise error
        if say is not None:
            say(line)
        step = max(unit, low // 8 // unit * unit)
        if high and high - low <= step:
            break
        rows = _next({} if high and tries >= SECANTS else needed, low, high, room, unit, step)
        if rows in (low, high):
            break
    assert best is not None  # else the smallest batch has raised
    return best


def _next(needed: dict[int, float], low: int, high: int, room: float, unit: int, step: int) -> int:
    """The rows to try next, a multiple of `unit`, between `low` and `high` (0: no limit known)."""
    guess = 2 * low if not high else (low + high) // 2
    near = sorted(needed, key=lambda rows: abs(needed[rows] - room))[:2]
    slope = (needed[near[1]] - needed[near[0]]) / (near[1] - near[0]) if len(near) == 2 else 0.0
    known = needed.get(low, 0.0)
    if low and known > 0.85 * room and slope < known / low / 2:
        guess = low + step  # no line any more: near its limit the compiler makes room
    elif slope > 0:
        guess = near[0] + int((room - needed[near[0]]) / slope)
    guess = guess // unit * unit
    # One step above what fits, at least: if that does not fit, the search is over.
    bottom, top = low + (step if low else unit), high - unit if high else 16 * max(low, unit)
    return max(unit, min(max(guess, bottom), top))
