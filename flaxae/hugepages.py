"""Settings of glibc's allocator for XLA's CPU programs: huge pages, and memory that is kept.

A step allocates its temporaries again and again, and every matmul allocates the buffers that it
packs its factors into. By default glibc takes such blocks from the system and returns them at once,
in pages of 4 KiB: the T5-VAE of 9.4 M parameters faults 57,000 pages per step, and its matmuls wait
for address translation. glibc reads its settings when a process starts, so a command that trains
starts itself a second time. For other programs: GLIBC_TUNABLES=$(python -m flaxae.hugepages).
"""

import os
import platform
import sys
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = {
    "glibc.malloc.hugetlb": 1,  # transparent huge pages, by madvise; glibc 2.35
    # By default blocks from 128 KiB on come from the system; this threshold is the largest one.
    "glibc.malloc.mmap_threshold": 2**25,
    "glibc.malloc.trim_threshold": 2**34,
    "glibc.malloc.top_pad": 2**28,
}
# Devices of accelerators: programs there do not wait for the host's memory.
ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg", "accel[0-9]*", "accel/accel[0-9]*", "vfio/[0-9]*")


def wanted() -> bool:
    """Return True if this process computes on a CPU, with glibc, and the variable is not set."""
    if VARIABLE in os.environ or platform.libc_ver()[0] != "glibc":
        return False
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    return not any(any(Path("/dev").glob(name)) for name in ACCELERATORS)


def value() -> str:
    """Return the value of the variable."""
    return ":".join(f"{name}={setting}" for name, setting in TUNABLES.items())


def restart() -> None:
    """Start this process's command again, with the variable set, if `wanted`; else return.

    The process number, the working directory and open files stay; computed values are lost, so
    commands call this first. It returns in a notebook, under a debugger, and if the command is not
    the one that Python was started with.
    """
    traced = sys.gettrace() is not None
    if not traced and wanted() and sys.executable and _started_as(sys.orig_argv[1:]):
        os.environ[VARIABLE] = value()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # a closed one
                stream.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _started_as(words: list[str]) -> bool:
    """Return True if these words start what runs as `__main__`: a script, or a module by `-m`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return bool(sys.argv[0]) and sys.argv[0] in words and sys.argv[0] not in ("-", "-c")
    return spec.name.removesuffix(".__main__") in words


if __name__ == "__main__":
    print(value())
