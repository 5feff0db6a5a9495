"""The same number of threads and the same memory allocator for both sides of a benchmark."""

import os
import sys


def pin(count: int) -> None:
    """Limit this process to `count` cores, from which XLA derives its number of threads.

    Call it before jax and torch start their threads. A script that calls it starts once more with
    train.py's allocator settings for glibc, which then apply to both sides (see
    `flaxae.hugepages`). Setting GLIBC_TUNABLES prevents that.
    """
    from flaxae import hugepages

    if sys._getframe(1).f_globals["__name__"] == "__main__":
        hugepages.restart()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        sys.exit(f"--threads={count}: this process may use only {len(cores)} cores")
    os.sched_setaffinity(0, set(cores[:count]))
