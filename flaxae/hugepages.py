"""glibc's allocator as XLA's CPU programs want it: huge pages, and memory that is kept.

A step allocates its temporaries anew, and every matmul the buffers it packs its factors into. By
default glibc takes such blocks from the system and returns them at once, in pages of 4 KiB: the
T5-VAE of 9.4 M parameters faults 57,000 pages a step, and its matmuls wait for address translation.
glibc reads its settings when a process starts, so a command starts itself once more. For other
programs: GLIBC_TUNABLES=$(python -m flaxae.hugepages).
"""

import os
import platform
import sys
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = {
    "glibc.malloc.hugetlb": 1,  # transparent huge pages, by madvise; glibc 2.35
    # By default blocks from 128 KiB on come from the system; at most this may be asked for.
    "glibc.malloc.mmap_threshold": 2**25,
    "glibc.malloc.trim_threshold": 2**34,
    "glibc.malloc.top_pad": 2**28,
}
# The host's memory is not what a program on an accelerator waits for.
ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg", "accel[0-9]*", "accel/accel[0-9]*", "vfio/[0-9]*")


def wanted() -> bool:
    """Whether this process would compute on a CPU, with glibc, and nobody has set it up."""
    if VARIABLE in os.environ or platform.libc_ver()[0] != "glibc":
        return False
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    return not any(any(Path("/dev").glob(name)) for name in ACCELERATORS)


def value() -> str:
    """What the variable is set to."""
    return ":".join(f"{name}={setting}" for name, setting in TUNABLES.items())


def restart() -> None:
    """Starts this process's command again, with the variable, where `wanted`; else returns.

    The process number, the working directory and open files stay; what was computed is lost, so
    this belongs to a command's beginning. In a notebook, under a debugger, or where the command is
    not the one that Python was started with, it returns.
    """
    traced = sys.gettrace() is not None
    if not traced and wanted() and sys.executable and _started_as(sys.orig_argv[1:]):
        os.environ[VARIABLE] = value()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # a closed one
                stream.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _started_as(words: list[str]) -> bool:
    """Whether these words start what runs as `__main__`: a script, or a module by `-m`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return bool(sys.argv[0]) and sys.argv[0] in words and sys.argv[0] not in ("-", "-c")
    return spec.name.removesuffix(".__main__") in words


if __name__ == "__main__":
    print(value())
