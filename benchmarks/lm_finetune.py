"""Fine-tuning by each method, one after the other: held-out loss, parameters, step time, memory.

    python benchmarks/lm_finetune.py --workdir=runs/lm_finetune                 # SmolLM2-135M
    python benchmarks/lm_finetune.py --workdir=runs/x --methods lora ia3 --steps 20
    python benchmarks/lm_finetune.py --workdir=runs/y --set pretrained=DIR data.path=my.jsonl

Every method is trained by `train.py` and evaluated by `flaxae.evaluate`, each in a process of its
own, in a folder of its own below the workdir. Started again, it goes on where it was stopped: a
method that is trained and evaluated is not touched. Losses are nats a token of the held-out
answers, before (the base) and after; the interval is the report's. A step's time is the median over
the log's lines but the first, which compiles. Memory is the most that the training process had;
of a GPU or TPU, that the device had. `bias` is refused by a Llama, which has none: its row says so.
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
REFUSED = 2  # the exit code of a user's mistake


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--config", default="configs/causal_lm/smollm2_lora.py")
    parser.add_argument("--steps", type=int, default=0, help="0: the config's")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="of the config")
    parser.add_argument("--threads", type=int, default=2, help="cores of each process; 0: all")
    return parser.parse_args(argv)


def run(command: list[str], log: Path) -> tuple[int, float]:
    """Exit code and seconds of a child; what it says is shown and kept."""
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


def go_on(method: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """Trains and evaluates a method, or what is left of it; its numbers, None where it is refused.

    Raises:
        SystemExit: training or evaluation failed; the same command goes on.
    """
    folder, log = args.workdir / method, args.workdir / f"{method}.log"
    report, times = folder / REPORT, read(folder / TIMES) or {"train": 0.0, "evaluate": 0.0}
    fields = [f"steps={args.steps}"] if args.steps else []
    options = [f"--config={ROOT / args.config}:{method}", f"--workdir={folder.resolve()}",
               *(f"--config.{field}" for field in fields + args.set)]  # fmt: skip
    found = read(report)
    if found and (not args.steps or found["step"] >= args.steps):
        same_config(options, folder)
        return found | measured(folder) | {"seconds": times}
    print(f"{method}: trains", flush=True)
    code, seconds = run([sys.executable, "train.py", *options], log)
    if code == REFUSED and not (folder / "config.json").exists():
        return None
    times["train"] += seconds
    if folder.is_dir():
        (folder / TIMES).write_text(json.dumps(times))
    if code:
        sys.exit(f"{method}: train.py ended with {code}; see {log}; the same command goes on")
    print(f"{method}: is evaluated", flush=True)
    command = [sys.executable, "-m", "flaxae.evaluate", str(folder.resolve())]
    code, times["evaluate"] = run([*command, f"--json={report.resolve()}"], log)
    if code:
        sys.exit(f"{method}: flaxae.evaluate ended with {code}; see {log}")
    (folder / TIMES).write_text(json.dumps(times))
    return json.loads(report.read_text()) | measured(folder) | {"seconds": times}


def same_config(options: list[str], folder: Path) -> None:
    """Ends this process where the run in a folder is of another config than these options say."""
    from flaxae.config import flags
    from flaxae.errors import ConfigError
    from flaxae.storage import workdir

    try:
        workdir.prepare(flags.parse(["lm_finetune", *options])[0], folder, None, main=False)
    except ConfigError as e:
        sys.exit(f"error: {e}")


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def measured(folder: Path) -> dict[str, Any]:
    """What the run's log says of time and memory.

    A resumed run has logged memory and compile time once a start: the most counts.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    # The first line of each start holds the compilation.
    steady = [1 / r["time/steps_per_second"] for r in rows
              if "time/compile_seconds" not in r and r["time/steps_per_second"]]  # fmt: skip
    starts = [r for r in rows if "time/compile_seconds" in r]
    return {
        "step_seconds": statistics.median(steady) if steady else None,
        "compile_seconds": max((r["time/compile_seconds"] for r in starts), default=None),
        "peak_memory_bytes": max((r["time/peak_memory_bytes"] for r in starts), default=None),
    }


def line(method: str, row: dict[str, Any] | None) -> str:
    """A row of the Markdown table."""
    if row is None:
        return f"| {method} | refused | | | | | | | |"
    low, high = row["test"]["interval"]
    step, memory = row["step_seconds"], row["peak_memory_bytes"]
    cells = [
        method, f"{row['trained_parameters']:,}", f"{row['step']}",
        f"{row['dev']['base']:.3f} -> {row['dev']['trained']:.3f}",
        f"{row['test']['base']:.3f} -> {row['test']['trained']:.3f}",
        f"{row['test']['difference']:.3f} [{low:.3f}, {high:.3f}]",
        f"{step:.2f} s" if step else "-", f"{memory / 1e9:.2f} GB" if memory else "-",
        f"{row['seconds']['train']:.0f} + {row['seconds']['evaluate']:.0f} s",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def case(method: str, row: dict[str, Any] | None) -> dict[str, Any]:
    """An entry of the JSON line: the loss after against the loss before."""
    if row is None:
        return {"name": method, "ours": None, "theirs": None, "unit": "nats/token", "ratio": None,
                "refused": True}  # fmt: skip
    kept = ("step", "trained_parameters", "step_seconds", "compile_seconds", "peak_memory_bytes",
            "seconds", "dev", "test")  # fmt: skip
    before, after = row["test"]["base"], row["test"]["trained"]
    return {"name": method, "ours": after, "theirs": before, "theirs_is": "the base's loss",
            "unit": "nats/token", "ratio": round(before / after, 3),
            **{name: row[name] for name in kept}}  # fmt: skip


def main(argv: list[str]) -> int:
    args = arguments(argv)
    if args.threads:
        _threads.pin(args.threads)  # its children too
    args.workdir.mkdir(parents=True, exist_ok=True)
    for text in args.set:
        name, _, value = text.partition("=")
        if not name or not value:
            sys.exit(f"--set {text}: not FIELD=VALUE")
    found = {method: go_on(method, args) for method in args.methods}
    print("\n| method | trained parameters | steps | dev loss | test loss | difference, 95 % "
          "| step | peak memory | train + evaluate |")  # fmt: skip
    print("|" + "---|" * 9)
    for method, row in found.items():
        print(line(method, row))
    about = {"cpu": platform.processor() or platform.machine(), "threads": args.threads,
             "load": os.getloadavg()[0]}  # fmt: skip
    print(json.dumps({"name": "lm_finetune", "config": args.config, "set": args.set,
                      "machine": about,
                      "cases": [case(*item) for item in found.items()]}))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
