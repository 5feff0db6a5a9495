"""Running a command: one message for a user's own mistake, and an exit code."""

import sys
from collections.abc import Callable

from flaxae import hugepages
from flaxae.errors import UserError, report
from flaxae.storage.quiet import quiet_backends


def run_main(
    main: Callable[[list[str]], int | None],
    argv: list[str] | None = None,
    huge_pages: bool = False,
) -> int:
    """Run a command; report a user's own mistake as one message on standard error.

    Args:
        main: takes the command line, the program's name first; returns an exit code (None: 0).
        argv: the command line; None: the process's own.
        huge_pages: for commands that train: if `main` is the process's own command, the process
            starts again with the allocator's settings (see `hugepages`).

    Returns:
        The exit code: 2 for a mistake in config, data or workdir, 1 for a run that went non-finite.
    """
    if huge_pages and argv is None and main.__module__ == "__main__":
        hugepages.restart()
    quiet_backends()
    try:
        return main(sys.argv if argv is None else argv) or 0
    except UserError as e:
        return report(e)
