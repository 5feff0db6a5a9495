"""What benchmarks share: as many threads for one side as for the other, and one allocator."""

import os
import sys


def pin(count: int) -> None:
    """Leaves this process so many cores, which XLA counts its threads by.

    To be called before jax and torch start their threads. The process starts again with glibc's
    allocator as train.py has it, for both sides, unless GLIBC_TUNABLES is set or a test calls.
    """
    from flaxae import hugepages

    if sys._getframe(1).f_globals["__name__"] == "__main__":
        hugepages.restart()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        sys.exit(f"--threads={count}: this process may use {len(cores)} cores only")
    os.sched_setaffinity(0, set(cores[:count]))
