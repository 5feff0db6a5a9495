"""Train a config's run, resume it, or report that it is done: `python train.py --help`."""

import shlex
import sys
from typing import TYPE_CHECKING

from flaxae.command import run_main
from flaxae.config import flags

if TYPE_CHECKING:
    from flaxae.training.loop import Result

USAGE = "Trains a run, resumes the run of the workdir, or reports that it is done."
EXIT_CODES = {"done": 0, "already_done": 0, "sigterm": 75, "sigint": 130}


def main(argv: list[str]) -> int:
    """Run the command line; return its exit code."""
    config, workdir, _ = flags.parse(["python train.py", *argv[1:]], usage=USAGE)
    # Before anything uses a device; a config file only builds dataclasses.
    from flaxae.machine import distributed

    distributed.initialize()
    from flaxae.training.loop import run

    result = run(config, workdir)
    if distributed.is_main():
        print(describe(result, workdir, argv))
    return EXIT_CODES[result.status]


def describe(result: "Result", workdir: str, argv: list[str]) -> str:
    """Return how the run ended, and what to do next."""
    step = int(result.state["step"])
    if result.status in ("sigterm", "sigint"):
        return f"Saved at step {step}. Continue with the same command:\n  python {shlex.join(argv)}"
    lines = [f"  {name} = {value}" for name, value in sorted(result.metrics.items())]
    verb = "was done already, at" if result.status == "already_done" else "is done:"
    lines = [
        f"The run in {workdir} {verb} step {step}.",
        *lines,
        f"Its whole evaluation: python -m flaxae.evaluate {shlex.quote(workdir)}",
        f"Train it further:     the same command with --config.steps={2 * step}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
