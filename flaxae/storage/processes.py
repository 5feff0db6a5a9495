"""Processes of this machine: which run, and since when."""

import os
import socket
import subprocess
from pathlib import Path

PROC = Path("/proc")


def machine() -> str:
    """Return an id of this boot of this machine and of the process table that numbers belong to.

    Containers may have the same host name and the same process numbers.
    """
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def of_another_user(pid: int) -> bool:
    """Return True if a process runs whose start this user may not be allowed to see."""
    try:
        os.kill(pid, 0)  # sends nothing
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def process_start(pid: int) -> str:
    """Return when a process of this machine started, in any unit; "" if there is no such process.

    A process that has ended and is not waited for yet (a zombie) counts as none.
    """
    if (PROC / "self/stat").exists():
        try:
            # The name, in brackets, may contain spaces and brackets.
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    # The text depends on language and time zone, which differ between terminals and cron.
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
    )
    return shown.stdout.strip()
