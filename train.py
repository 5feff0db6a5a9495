"""Trains a config's run, or resumes it, or says that it is done: `python train.py --help`."""

import shlex
import sys
from typing import Any

from flaxae.command import run_main
from flaxae.config import flags

USAGE = "Trains, or resumes where the workdir's run stopped, or says that it is done."
EXIT_CODES = {"done": 0, "already_done": 0, "sigterm": 75, "sigint": 130}


def main(argv: list[str]) -> int:
    config, workdir, _ = flags.parse(["python train.py", *argv[1:]], usage=USAGE)
    # Before anything uses a device; a config file only builds dataclasses.
    from flaxae.machine import distributed

    distributed.initialize()
    from flaxae.training.loop import run

    result = run(config, workdir)
    if distributed.is_main():
        print(describe(result, workdir, argv))
    return EXIT_CODES[result.status]


def describe(result: Any, workdir: str, argv: list[str]) -> str:
    """How the run ended, and how to go on."""
    step = int(result.state["step"])
    if result.status in ("sigterm", "sigint"):
        return f"Saved at step {step}. Go on with the same command:\n  python {shlex.join(argv)}"
    lines = [f"  {name} = {value}" for name, value in sorted(result.metrics.items())]
    verb = "was done already, at" if result.status == "already_done" else "is done:"
    return "\n".join([
        f"The run in {workdir} {verb} step {step}.",
        *lines,
        f"Its whole evaluation: python -m flaxae.evaluate {shlex.quote(workdir)}",
        f"Train it further:     the same command with --config.steps={2 * step}",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
