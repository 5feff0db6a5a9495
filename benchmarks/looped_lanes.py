"""N lanes of one program compared with N consecutive runs, to plan sweeps of looped models.

    python benchmarks/looped_lanes.py
    python benchmarks/looped_lanes.py --cases "E=32 b=20" --lanes 3 6 --batch 16

Lanes differ in their seed; all have the same b. Blocks of steps of both sides alternate in one
process; times are medians over the rounds. Consecutive runs share a compiled program here, but a
sweep compiles each run separately: their compile time is N times that of one run. Temporaries are
those of the compiled programs.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _threads

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

# width, heads, dimensions, points, b, T
CASES = {
    "E=32 b=5": (32, 2, 3, 8, 5, 5),
    "E=32 b=20": (32, 2, 3, 8, 20, 5),
    "E=64 b=20": (64, 4, 8, 16, 20, 5),
    "E=256 b=12": (256, 8, 20, 41, 12, 5),
    "tiny": (8, 2, 2, 4, 3, 2),
}
HEAD = (
    "| case | lanes | lanes, ms per step | runs, ms | runs / lanes "
    "| compile lanes, s | compile runs, s | temporaries of lanes, MiB | of one run, MiB |"
)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [case for case in CASES if case != "tiny"]
    parser.add_argument("--cases", nargs="+", default=sizes, choices=list(CASES))
    parser.add_argument("--lanes", nargs="+", type=int, default=[1, 2, 3, 6], metavar="N")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=int, default=2, help="steps per side and round")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(argv)


def make_config(case: str, batch: int) -> Any:
    """Return the config of a case."""
    from flaxae.config import Config, DataConfig, MeshConfig, OptimConfig, Schedule
    from flaxae.models.looped.modeling import ModelConfig
    from flaxae.models.looped.task import LoopedConfig

    width, heads, dims, points, b, t = CASES[case]
    model = ModelConfig(dims=dims, points=points, width=width, num_heads=heads)
    return Config(
        task=LoopedConfig(model=model, loops=b, grad_loops=t),
        data=DataConfig(batch_size=batch),
        optim=OptimConfig(lr=1e-4, schedule=Schedule.CONSTANT, clip_norm=0.0),
        mesh=MeshConfig(fsdp=1),
    )


def consecutive(step: Any, count: int) -> Callable[[], None]:
    """Return a function that makes one step of each of `count` runs with one compiled step."""
    import jax
    import jax.numpy as jnp

    states = [jax.tree.map(jnp.copy, step.state) for _ in range(count)]

    def run() -> None:
        for i, state in enumerate(states):
            states[i], metrics = step.step(state, {}, {}, step.hparams)
            jax.device_get(metrics["loss"])

    return run


def run_case(case: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each number of lanes; print and return one row per number."""
    from looped_step import OurStep, interleaved

    config, out = make_config(case, args.batch), []
    single = OurStep(config)
    for count in args.lanes:
        together = OurStep(config, count)
        sides = {"lanes": together, "runs": consecutive(single, count)}
        times = interleaved(sides, args.rounds, args.block)
        lanes, runs = (statistics.median(times[k]) for k in ("lanes", "runs"))
        out.append(
            {
                "name": f"{count} lanes, {case}",
                "ours": lanes,
                "theirs": runs,
                "unit": "s/step",
                "ratio": round(runs / lanes, 3),
                "lanes": count,
                "compile_seconds": round(together.compile_seconds, 2),
                "compile_seconds_in_turn": round(count * single.compile_seconds, 2),
                "temporary_bytes": together.temporaries,
                "temporary_bytes_of_one": single.temporaries,
            }
        )
        print(_line(case, out[-1]), flush=True)
    return out


def _line(case: str, row: dict[str, Any]) -> str:
    cells = [
        case,
        f"{row['lanes']}",
        f"{row['ours'] * 1e3:.1f}",
        f"{row['theirs'] * 1e3:.1f}",
        f"{row['ratio']:.2f}",
        f"{row['compile_seconds']:.1f}",
        f"{row['compile_seconds_in_turn']:.1f}",
        f"{row['temporary_bytes'] / 2**20:.1f}",
        f"{row['temporary_bytes_of_one'] / 2**20:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> int:
    """Measure all cases; print their table and the JSON line."""
    args = _arguments(argv)
    if min(args.lanes) < 1:
        sys.exit(f"--lanes: {min(args.lanes)} must be at least 1")
    _threads.pin(args.threads)
    print(f"batch {args.batch}, T=5 (tiny: 2)\n\n{HEAD}\n{'|---' * 9}|")
    cases = list(itertools.chain.from_iterable(run_case(case, args) for case in args.cases))
    print(
        json.dumps(
            {
                "name": "looped_lanes",
                "cases": cases,
                "threads": args.threads,
                "machine": platform.processor() or platform.machine(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
