"""What benchmarks share: as many threads for one side as for the other."""

import os
import sys


def pin(count: int) -> None:
    """Leaves this process so many cores, which XLA counts its threads by.

    To be called before jax and torch start their threads.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        sys.exit(f"--threads={count}: this process may use {len(cores)} cores only")
    os.sched_setaffinity(0, set(cores[:count]))
