"""Running a command: one message for a user's own mistake, and an exit code."""

import sys
from collections.abc import Callable

from flaxae import hugepages
from flaxae.errors import UserError


def run_main(main: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Runs a command; a user's own mistake is one message on standard error.

    Where `main` is the process's own command it starts once more first, as `hugepages` says.

    Args:
        main: takes the command line, the program's name first; returns an exit code (None: 0).
        argv: defaults to the process's own.

    Returns:
        The exit code: 2 for a mistake in config, data or workdir, 1 for a run that went non-finite.
    """
    if argv is None and main.__module__ == "__main__":
        hugepages.restart()
    try:
        return main(sys.argv if argv is None else argv) or 0
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
