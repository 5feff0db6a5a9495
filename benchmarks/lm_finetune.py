"""Fine-tuning by each method: held-out loss, parameters, step time and memory.

    python benchmarks/lm_finetune.py --workdir=runs/lm_finetune                 # SmolLM2-135M
    python benchmarks/lm_finetune.py --workdir=runs/x --methods lora ia3 --steps 20
    python benchmarks/lm_finetune.py --workdir=runs/y --set pretrained=DIR data.path=my.jsonl

Each method is trained by `train.py` and evaluated by `flaxae.evaluate`, in separate processes, in a
subfolder of the workdir. The same command continues after an interruption; finished methods are not
run again. Losses are nats per token of the held-out answers before (the base) and after training,
with the report's interval. A step's time is the median over the log's lines except the first,
which includes compilation. Memory is the peak of the training process, or of the GPU or TPU. A
Llama has no biases, so the method `bias` fails, and its row reports this.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _threads

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("lora", "dora", "ia3", "norms", "bias", "full")
REPORT, TIMES = "finetune.json", "finetune_times.json"
REFUSED = 2  # exit code of a user's mistake


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--config", default="configs/causal_lm/smollm2_lora.py")
    parser.add_argument("--steps", type=int, default=0, help="training steps; 0: the config's")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="config fields")
    parser.add_argument("--threads", type=int, default=2, help="cores per process; 0: all")
    return parser.parse_args(argv)


def run(command: list[str], log: Path) -> tuple[int, float]:
    """Run a command, show and log its output, and return its exit code and seconds."""
    began = time.perf_counter()
    with log.open("a") as file:
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert child.stdout is not None
        for line in child.stdout:
            file.write(line)
            print(f"    {line}", end="", flush=True)
    return child.wait(), time.perf_counter() - began


def run_method(method: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """Train and evaluate a method, as far as it is not done yet.

    Returns:
        The method's numbers; None if the model does not support the method.

    Raises:
        SystemExit: if training or evaluation failed; the same command continues.
    """
    folder, log = args.workdir / method, args.workdir / f"{method}.log"
    report, times = folder / REPORT, _read_json(folder / TIMES) or {"train": 0.0, "evaluate": 0.0}
    fields = [f"steps={args.steps}"] if args.steps else []
    options = [
        f"--config={ROOT / args.config}:{method}",
        f"--workdir={folder.resolve()}",
        *(f"--config.{field}" for field in fields + args.set),
    ]
    found = _read_json(report)
    if found and (not args.steps or found["step"] >= args.steps):
        check_same_config(options, folder)
        return found | read_log(folder) | {"seconds": times}
    print(f"{method}: training", flush=True)
    code, seconds = run([sys.executable, "train.py", *options], log)
    if code == REFUSED and not (folder / "config.json").exists():
        return None
    times["train"] += seconds
    if folder.is_dir():
        (folder / TIMES).write_text(json.dumps(times))
    if code:
        sys.exit(
            f"{method}: train.py ended with exit code {code}; see {log}; the same command continues"
        )
    print(f"{method}: evaluating", flush=True)
    command = [sys.executable, "-m", "flaxae.evaluate", str(folder.resolve())]
    code, times["evaluate"] = run([*command, f"--json={report.resolve()}"], log)
    if code:
        sys.exit(f"{method}: flaxae.evaluate ended with exit code {code}; see {log}")
    (folder / TIMES).write_text(json.dumps(times))
    return json.loads(report.read_text()) | read_log(folder) | {"seconds": times}


def check_same_config(options: list[str], folder: Path) -> None:
    """Exit if the run in a folder has another config than these options."""
    from flaxae.config import flags
    from flaxae.errors import ConfigError
    from flaxae.storage import workdir

    try:
        workdir.prepare(flags.parse(["lm_finetune", *options])[0], folder, None, main=False)
    except ConfigError as e:
        sys.exit(f"error: {e}")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def read_log(folder: Path) -> dict[str, Any]:
    """Return time and memory from the run's log.

    A resumed run logs memory and compile time at each start: the largest values count.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    # The first line of each start includes the compilation.
    steady = [
        1 / r["time/steps_per_second"]
        for r in rows
        if "time/compile_seconds" not in r and r["time/steps_per_second"]
    ]
    starts = [r for r in rows if "time/compile_seconds" in r]
    return {
        "step_seconds": statistics.median(steady) if steady else None,
        "compile_seconds": max((r["time/compile_seconds"] for r in starts), default=None),
        "peak_memory_bytes": max((r["time/peak_memory_bytes"] for r in starts), default=None),
    }


def _line(method: str, row: dict[str, Any] | None) -> str:
    """Return a row of the Markdown table."""
    if row is None:
        return f"| {method} | refused | | | | | | | |"
    low, high = row["test"]["interval"]
    step, memory = row["step_seconds"], row["peak_memory_bytes"]
    cells = [
        method,
        f"{row['trained_parameters']:,}",
        f"{row['step']}",
        f"{row['dev']['base']:.3f} -> {row['dev']['trained']:.3f}",
        f"{row['test']['base']:.3f} -> {row['test']['trained']:.3f}",
        f"{row['test']['difference']:.3f} [{low:.3f}, {high:.3f}]",
        f"{step:.2f} s" if step else "-",
        f"{memory / 1e9:.2f} GB" if memory else "-",
        f"{row['seconds']['train']:.0f} + {row['seconds']['evaluate']:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _case(method: str, row: dict[str, Any] | None) -> dict[str, Any]:
    """Return an entry of the JSON line, with the loss after and before training."""
    if row is None:
        return {
            "name": method,
            "ours": None,
            "theirs": None,
            "unit": "nats/token",
            "ratio": None,
            "refused": True,
        }
    kept = (
        "step",
        "trained_parameters",
        "step_seconds",
        "compile_seconds",
        "peak_memory_bytes",
        "seconds",
        "dev",
        "test",
    )
    before, after = row["test"]["base"], row["test"]["trained"]
    return {
        "name": method,
        "ours": after,
        "theirs": before,
        "theirs_is": "the base's loss",
        "unit": "nats/token",
        "ratio": round(before / after, 3),
        **{name: row[name] for name in kept},
    }


def main(argv: list[str]) -> int:
    """Run all methods; print their table and the JSON line."""
    args = _arguments(argv)
    if args.threads:
        _threads.pin(args.threads)  # also limits the child processes
    args.workdir.mkdir(parents=True, exist_ok=True)
    for text in args.set:
        name, _, value = text.partition("=")
        if not name or not value:
            sys.exit(f"--set {text}: must be FIELD=VALUE")
    found = {method: run_method(method, args) for method in args.methods}
    print(
        "\n| method | trained parameters | steps | dev loss | test loss | difference, 95 % "
        "| step | peak memory | train + evaluate |"
    )
    print("|" + "---|" * 9)
    for method, row in found.items():
        print(_line(method, row))
    about = {
        "cpu": platform.processor() or platform.machine(),
        "threads": args.threads,
        "load": os.getloadavg()[0],
    }
    print(
        json.dumps(
            {
                "name": "lm_finetune",
                "config": args.config,
                "set": args.set,
                "machine": about,
                "cases": [_case(*item) for item in found.items()],
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
