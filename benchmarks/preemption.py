"""How fast a run that is told to stop is saved and gone: `python benchmarks/preemption.py`.

Trains the demo's config by `train.py` in a process of its own, sends SIGTERM at another step each
round, and takes the time until the process has ended; then the same command goes on. Each round
asserts the exit code, 75, and that the checkpoint that is left is of the last step that was logged
or a later one. SIGTERM comes after a step that the process itself has logged: it heeds signals
then. The bound is 10 seconds.
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
BOUND = 10.0  # seconds
TOLD = 75  # the exit code after SIGTERM


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/t5_vae/python_lines.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15, help="more each round, before it is told")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds a round at most")
    return parser.parse_args()


def logged(workdir: Path) -> int:
    """The last step in the log; 0 where there is none."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()  # the last line may be half-written
    return max((json.loads(line)["step"] for line in whole), default=0)


def stopped(command: list[str], workdir: Path, target: int, patience: float) -> tuple[float, int]:
    """Seconds from SIGTERM to the end of the process, and the last step that was logged before.

    It is sent once `target` steps are logged.
    """
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + patience
        while logged(workdir) < target:
            if child.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the run ended ({child.returncode}) or hung before step {target}")
            time.sleep(0.05)
        seen = logged(workdir)
        child.send_signal(signal.SIGTERM)
        began = time.perf_counter()
        code = child.wait(patience)
        seconds = time.perf_counter() - began
    finally:
        child.kill()
    if code != TOLD:
        sys.exit(f"after SIGTERM the exit code is {code}, not {TOLD}")
    return seconds, seen


def main() -> None:
    args = arguments()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    times = []
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        command = [sys.executable, "train.py", f"--config={args.config}", f"--workdir={workdir}",
                   "--config.log.every=1", "--config.log.progress=False"]  # fmt: skip
        left = 0
        for _ in range(args.rounds):
            seconds, seen = stopped(command, workdir, left + args.steps, args.patience)
            times.append(seconds)
            left = max(int(p.name) for p in (workdir / "latest").iterdir() if p.name.isdigit())
            last = logged(workdir)
            assert left >= last, f"step {last} is logged, the checkpoint is of step {left}"
            print(f"told after step {seen}: saved step {left} and gone in {times[-1]:.2f} s",
                  flush=True)  # fmt: skip
    worst = max(times)
    print(json.dumps({
        "name": "preemption", "ours": statistics.median(times), "theirs": BOUND, "unit": "s",
        "ratio": round(BOUND / worst, 2), "worst": worst,
        "machine": platform.processor() or platform.machine(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
