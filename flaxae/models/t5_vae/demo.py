"""`make demo`: train a T5-VAE on the lines of Python's standard library and evaluate it."""

import argparse
import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import TaskConfig, flags
from flaxae.config.locate import user_path
from flaxae.training.report import REPORT, TEXT, evaluate

CONFIG = "configs/t5_vae/python_lines.py"


@dataclasses.dataclass(frozen=True)
class Preset:
    """One size of the demo: a preset of the config file.

    Attributes:
        workdir: the default workdir.
        result: the result to expect.
    """

    workdir: str
    result: str


PRESETS = {
    "quick": Preset("runs/demo-quick", "about 93 of 100 held-out lines come back exactly"),
    "full": Preset(
        "runs/demo",
        "97 to 98 of 100 held-out lines come back exactly, after 4 to 5 times as many minutes",
    ),
}


def saved_step(workdir: Path) -> int:
    """Return the newest saved step of a run; 0 if there is none."""
    steps = [int(p.name) for p in workdir.glob("latest/[0-9]*") if p.name.isdigit()]
    return max(steps, default=0)


def print_evaluation(workdir: Path, step: int, config_class: type[TaskConfig]) -> None:
    """Print the evaluation of a finished run; it is computed unless a stored one is up to date.

    Args:
        workdir: the run's workdir.
        step: the run's last step.
        config_class: the class of its task's config.
    """
    folder = workdir / REPORT
    try:
        fresh = json.loads((folder / "report.json").read_text())["step"] == step
        text = (folder / TEXT).read_text() if fresh else ""
    except (OSError, ValueError, KeyError):
        text = ""
    if text:
        print(text, end="")
    else:
        print("Evaluating on held-out lines ...", flush=True)
        evaluate(workdir, config_class=config_class)


def next_commands(config: str, workdir: Path, python: str) -> str:
    """Return the commands to continue with, the explorer first.

    Args:
        config: the config file with its preset.
        workdir: the run's workdir.
        python: the interpreter's path.
    """
    folder = shlex.quote(str(workdir))
    lines = [
        "Explore the latent space in the browser:",
        f"  {python} -m flaxae.explore {folder}",
        "Other commands:",
        f"  {python} -m flaxae.evaluate {folder}            # repeat this evaluation",
        f"  {python} train.py --config={config} --workdir=runs/mine --config.data.path=my.txt",
        f"  {python} train.py --config={config} --help",
        f"  {python} -m flaxae.summary --config={config}",
    ]
    return "\n".join(lines)


def run_demo(preset: str = "quick", workdir: str = "") -> int:
    """Train (or resume) a preset, evaluate it and print the results.

    Args:
        preset: a key of PRESETS.
        workdir: "": the preset's own.

    Returns:
        The exit code: 0, 75 after SIGTERM, 130 after Ctrl-C.
    """
    folder = user_path(workdir or PRESETS[preset].workdir)
    config = flags.load_config(f"{CONFIG}:{preset}")
    start = saved_step(folder)
    print(f"T5-VAE on lines of Python, PRESET={preset}, {config.steps} steps, in {folder}")
    if start < config.steps:
        print(f"Expect: {PRESETS[preset].result}.")
        if preset == "quick":
            print(f"PRESET=full: {PRESETS['full'].result}.")
        print("Ctrl-C saves the run; the same command resumes it.", flush=True)
    from flaxae.training.loop import run

    started = time.perf_counter()
    result: Any = run(config, folder)
    step = int(result.state["step"])
    if result.status in ("sigterm", "sigint"):
        print(f"Saved at step {step} of {config.steps}. To continue: make demo PRESET={preset}")
        return 75 if result.status == "sigterm" else 130
    if result.status == "already_done":
        print(f"This run is done ({step} steps); delete {folder} to train it again. Its results:")
    else:
        print(
            f"Trained {step - start} steps in {(time.perf_counter() - started) / 60:.1f} minutes."
        )
    print_evaluation(folder, step, type(config.task))
    print()
    print(next_commands(f"{CONFIG}:{preset}", folder, shlex.quote(_python())))
    return 0


def _python() -> str:
    """Return the interpreter's path, relative to the current folder if it is inside."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def main(argv: list[str]) -> int:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.t5_vae.demo", description=__doc__
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--workdir", default="", help="default: runs/demo-quick, or runs/demo")
    args = parser.parse_args(argv[1:])
    return run_demo(args.preset, args.workdir)


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
