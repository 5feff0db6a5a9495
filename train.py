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
    from flaxae.task import has_report

    verb = "was done already, at" if result.status == "already_done" else "is done:"
    lines = [f"The run in {workdir} {verb} step {step}."]
    lines += [f"  {name} = {value}" for name, value in sorted(result.metrics.items())]
    if has_report(result.task):
        command = ["python", "-m", "flaxae.evaluate", workdir]
        if not type(result.config.task).__module__.startswith("flaxae."):
            command.append(f"--config={config_file(argv)}")
        lines.append(f"Its whole evaluation: {shlex.join(command)}")
    lines.append(f"Train it further:     the same command with {further(result, workdir)}")
    return "\n".join(lines)


def further(result: "Result", workdir: str) -> str:
    """Return the options that train a finished run further."""
    from flaxae.config.horizon import horizon, schedule_has_ended

    config, step = result.config, int(result.state["step"])
    # Not beyond the end of a schedule that ends at 0.
    most = horizon(config) if schedule_has_ended(config, 2 * step) else 2 * step
    most -= most % config.steps_per_call
    if most > step:
        return f"--config.steps={most}"
    return (
        f"{shlex.join([f'--config.resume_from={workdir}'])} --workdir=NEW\n"
        "                      (a new run from its parameters: its own learning rate has "
        "reached 0)"
    )


def config_file(argv: list[str]) -> str:
    """Return the config file, with its preset, that a command line names."""
    file = ""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config" and argument.startswith("-"):
            file = value if equals else following
    return file


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
