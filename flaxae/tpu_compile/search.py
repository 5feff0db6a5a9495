"""Search for the largest batch that fits a slice, with few compilations."""

from collections.abc import Callable

from flaxae.config import Config, copy_config
from flaxae.tpu_compile import compiler, report
from flaxae.tpu_compile.chips import chip_of

SECANTS = 4  # compilations before the search changes from the secant method to bisection


def find_batch(
    config: Config,
    name: str,
    *,
    effort: float = 0.0,
    slices: int = 1,
    log: Callable[[str], None] | None = None,
) -> report.Report:
    """Find the largest batch that fits, to within an eighth.

    Memory grows almost linearly with the rows, so the next size to try is where a line through
    known sizes reaches the chip's memory (secant method). If that does not end the search, it
    bisects.

    Args:
        config: the config; the search starts from its batch size.
        name: chip and slice, such as "v5e:2x4".
        effort: XLA's exec_time_optimization_effort; -1 compiles fastest, 0 is a run's setting.
        slices: number of slices.
        log: called with one line per compilation.

    Returns:
        The report of the largest batch.

    Raises:
        DoesNotFit: if the smallest batch does not fit.
    """
    shards = len(compiler.topology(name, slices))
    capacity = chip_of(name).hbm
    unit = getattr(config.data, "num_buckets", 1) * config.accumulate
    best: report.Report | None = None
    needed: dict[int, float] = {}  # rows per device -> bytes
    low, high, tries = 0, 0, 0
    rows = max(unit, config.data.batch_size // shards // unit * unit)
    while True:
        tries += 1
        changed = copy_config(config, {"data.batch_size": rows * shards})
        try:
            best, low = report.analyse(changed, name, effort=effort, slices=slices), rows
            needed |= {0: best.argument_bytes, rows: best.hbm_bytes}
            line = f"{rows} rows per device fit: {best.hbm_bytes / 2**30:.2f} GiB"
        except compiler.DoesNotFit as error:
            high = rows
            if error.needed:
                needed[rows] = error.needed
            line = f"{rows} rows per device do not fit"
            if rows == unit:
                raise error
        if log is not None:
            log(line)
        step = max(unit, low // 8 // unit * unit)
        if high and high - low <= step:
            break
        rows = _next({} if high and tries >= SECANTS else needed, low, high, capacity, unit, step)
        if rows in (low, high):
            break
    assert best is not None  # otherwise the smallest batch has raised
    return best


def _next(
    needed: dict[int, float], low: int, high: int, capacity: float, unit: int, step: int
) -> int:
    """Return the rows to try next, a multiple of `unit` between `low` and `high` (0: no limit)."""
    guess = 2 * low if not high else (low + high) // 2
    near = sorted(needed, key=lambda rows: abs(needed[rows] - capacity))[:2]
    slope = (needed[near[1]] - needed[near[0]]) / (near[1] - near[0]) if len(near) == 2 else 0.0
    known = needed.get(low, 0.0)
    if low and known > 0.85 * capacity and slope < known / low / 2:
        guess = low + step  # near the limit the compiler saves memory, so the line no longer holds
    elif slope > 0:
        guess = near[0] + int((capacity - needed[near[0]]) / slope)
    guess = guess // unit * unit
    # Try at least one step above what fits: if that does not fit, the search is over.
    bottom, top = low + (step if low else unit), high - unit if high else 16 * max(low, unit)
    return max(unit, min(max(guess, bottom), top))
