"""Time from SIGTERM to the end of a saved run: `python benchmarks/preemption.py`.

`train.py` trains the demo's config in a separate process. Each round sends SIGTERM at a later step,
measures the time until the process has ended, and continues with the same command. Each round also
checks that the exit code is 75, and that the checkpoint is of the last logged step or a later one.
SIGTERM is sent only after the process has logged a step, because it handles signals by then. The
limit is 10 seconds.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 10.0  # seconds
SAVED = 75  # exit code after SIGTERM


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/t5_vae/python_lines.py:copy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15, help="steps per round before SIGTERM")
    parser.add_argument("--patience", type=float, default=600.0, help="most seconds per round")
    return parser.parse_args()


def last_logged(workdir: Path) -> int:
    """Return the last step in the log; 0 if there is none."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    complete = text[: text.rfind("\n") + 1].splitlines()  # the last line may be incomplete
    return max((json.loads(line)["step"] for line in complete), default=0)


def stop_run(command: list[str], workdir: Path, target: int, patience: float) -> tuple[float, int]:
    """Start a run, send SIGTERM once `target` steps are logged, and wait for its end.

    Returns:
        The seconds from SIGTERM to the end, and the last step logged before SIGTERM.
    """
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + patience
        while last_logged(workdir) < target:
            if child.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the run ended ({child.returncode}) or hung before step {target}")
            time.sleep(0.05)
        seen = last_logged(workdir)
        child.send_signal(signal.SIGTERM)
        began = time.perf_counter()
        code = child.wait(patience)
        seconds = time.perf_counter() - began
    finally:
        child.kill()
    if code != SAVED:
        sys.exit(f"after SIGTERM the exit code is {code}, not {SAVED}")
    return seconds, seen


def main() -> None:
    """Measure all rounds and print the JSON line."""
    args = _arguments()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    times = []
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        command = [
            sys.executable,
            "train.py",
            f"--config={args.config}",
            f"--workdir={workdir}",
            "--config.log.every=1",
            "--config.log.progress=False",
        ]
        saved = 0
        for _ in range(args.rounds):
            seconds, seen = stop_run(command, workdir, saved + args.steps, args.patience)
            times.append(seconds)
            saved = max(int(p.name) for p in (workdir / "latest").iterdir() if p.name.isdigit())
            last = last_logged(workdir)
            assert saved >= last, f"step {last} is logged, but the checkpoint is of step {saved}"
            print(
                f"SIGTERM after step {seen}: saved step {saved}, ended in {times[-1]:.2f} s",
                flush=True,
            )
    worst = max(times)
    print(
        json.dumps(
            {
                "name": "preemption",
                "ours": statistics.median(times),
                "theirs": LIMIT,
                "unit": "s",
                "ratio": round(LIMIT / worst, 2),
                "worst": worst,
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
