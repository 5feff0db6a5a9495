"""`make demo`: trains a T5-VAE on the standard library's lines, and shows what it can do."""

import argparse
import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import flags
from flaxae.training.report import REPORT, TEXT, evaluate

CONFIG = "configs/t5_vae/python_lines.py"
# What a step costs, and what the rest does (the tokenizer, compiling, evaluating), as the matmul
# work that `matmul_rate`'s machine would do in that time. Measured at 200 to 204 GFLOP/s: 6.2
# steps a second, with huge pages, in the first 988 of 9,600 steps; 1.1 minutes of the rest.
WORK_PER_STEP = 33e9
REST_WORK = 13.5e12


@dataclasses.dataclass(frozen=True)
class Preset:
    """A size of the demo: its variant of the config file, and what to expect of it."""

    workdir: str
    expect: str


PRESETS = {
    "full": Preset("runs/demo", "97 of 100 lines of held-out files come back exactly"),
    "quick": Preset("runs/demo-quick", "about 93 of 100 lines of held-out files come back exactly"),
}


def matmul_rate(seconds: float = 2.0, size: int = 1024) -> float:
    """The machine's float32 matmul rate in FLOP/s, from about that many seconds of work."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(x, x).block_until_ready()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(times)[len(times) // 2]


def minutes(steps: int, rate: float) -> int:
    """How long a preset takes on such a machine, installation not counted."""
    return max(1, round((steps * WORK_PER_STEP + REST_WORK) / rate / 60))


def announce(preset: str, steps: dict[str, int], start: int) -> None:
    """Says what the machine can do and how long each preset takes on it."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        print(f"This machine computes on {device.device_kind}: expect a few minutes.")
        return
    print("Measuring this machine ...", flush=True)
    rate = matmul_rate()
    print(f"{rate / 1e9:.0f} GFLOP/s in float32 matmuls. On it,")
    for name, other in PRESETS.items():
        left = steps[name] - (start if name == preset else 0)
        mark = "  <- this run" if name == preset else ""
        print(
            f"  PRESET={name:<6} {steps[name]:>5} steps, about {minutes(left, rate)} minutes: "
            f"{other.expect}{mark}"
        )
    print("Ctrl-C saves; the same command goes on from there.", flush=True)


def saved_step(workdir: Path) -> int:
    """The newest saved step of a run; 0: none."""
    steps = [int(p.name) for p in workdir.glob("latest/[0-9]*") if p.name.isdigit()]
    return max(steps, default=0)


def finish(workdir: Path, step: int, config_class: Any) -> None:
    """Prints the evaluation of a finished run: the kept one where it is of this step."""
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
    code = f'import flaxae; run = flaxae.load("{workdir}"); print(run.step, run.config.task)'
    return "\n".join([
        "Next:",
        f"  {python} -m flaxae.evaluate {workdir}            # this evaluation once more",
        f"  {python} -c '{code}'",
        f"  {python} train.py --config={config} --workdir=runs/mine --config.data.path=my.txt",
        f"  {python} train.py --config={config} --help",
        f"  {python} -m flaxae.summary --config={config}",
    ])  # fmt: skip


def run_demo(preset: str, workdir: str = "") -> int:
    """Trains (or resumes) a preset, evaluates it and prints the results.

    Args:
        preset: a key of PRESETS.
        workdir: "": the preset's own.

    Returns:
        The exit code: 0, 75 after SIGTERM, 130 after Ctrl-C.
    """
    folder = Path(workdir or PRESETS[preset].workdir)
    configs = {name: flags.load_config(f"{CONFIG}:{name}") for name in PRESETS}
    steps = {name: config.steps for name, config in configs.items()}
    print(f"T5-VAE on lines of Python, PRESET={preset}, in {folder}")
    start = saved_step(folder)
    if start < steps[preset]:
        announce(preset, steps, start)
    from flaxae.training.loop import run

    began = time.perf_counter()
    result: Any = run(configs[preset], folder)
    step = int(result.state["step"])
    if result.status in ("sigterm", "sigint"):
        print(f"Saved at step {step} of {steps[preset]}. Go on: make demo PRESET={preset}")
        return 75 if result.status == "sigterm" else 130
    if result.status == "already_done":
        print(f"This run is done ({step} steps); delete {folder} to train it again. Its results:")
    else:
        print(f"Trained {step - start} steps in {(time.perf_counter() - began) / 60:.1f} minutes.")
    finish(folder, step, type(configs[preset].task))
    print()
    print(next_commands(f"{CONFIG}:{preset}", folder, shlex.quote(_python())))
    return 0


def _python() -> str:
    """The interpreter, as short as it can be typed from here."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.t5_vae.demo", description=__doc__
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="full")
    parser.add_argument("--workdir", default="", help="default: runs/demo, or runs/demo-quick")
    args = parser.parse_args(argv[1:])
    return run_demo(args.preset, args.workdir)


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
