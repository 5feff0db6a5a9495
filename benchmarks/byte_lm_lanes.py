"""The grid's byte models: lanes of one program compared with single runs, and with matmuls.

    python benchmarks/byte_lm_lanes.py
    python benchmarks/byte_lm_lanes.py --streams 8 128 --rounds 3

12 lanes of one program (a layer of 32 gated states, three k, with and without same step and output
gate) alternate with 12 runs of one compiled step, in blocks of calls of 16 updates; times are
medians over the rounds. The single runs share a program here, but a sweep without lanes compiles
one per run. The step of a layer of 256 states is compared with a product of two large matrices in
FLOP/s; its own FLOPs are those of its matmuls.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _threads

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

HEAD = "| case | lanes, bytes/s | one at a time, bytes/s | ratio | compile, s | of one, s |"


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", nargs="+", type=int, default=[8, 32, 128], metavar="B")
    parser.add_argument("--large-streams", nargs="+", type=int, default=[16, 64], metavar="B")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=4, help="calls per side and round")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(argv)


def make_config(cell: Any, streams: int) -> Any:
    """Return the config of a cell."""
    from flaxae.config import Config, OptimConfig, Schedule, copy_config
    from flaxae.models.byte_lm.grid import GridConfig
    from flaxae.models.byte_lm.streams import ByteDataConfig

    base = Config(
        task=GridConfig(),
        data=ByteDataConfig(batch_size=streams),
        optim=OptimConfig(lr=1e-3, schedule=Schedule.CONSTANT),
        steps_per_call=16,
    )
    return copy_config(base, cell.overrides)


def interleaved(
    sides: dict[str, Callable[[], None]], rounds: int, calls: int
) -> dict[str, list[float]]:
    """Return the seconds per call of each side in each round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, call in sides.items():
            call()
            began = time.perf_counter()
            for _ in range(calls):
                call()
            if i > 0:
                times[name].append((time.perf_counter() - began) / calls)
    return times


def run_lanes(streams: int, args: argparse.Namespace) -> dict[str, Any]:
    """Compare 12 lanes with 12 consecutive runs."""
    from flaxae.models.byte_lm.grid_cells import Cell
    from flaxae.models.byte_lm.rates import Timed
    from flaxae.models.byte_lm.recurrence import Dynamic

    flags = itertools.product((False, True), (False, True), (1, 2, 4))
    cells = [Cell(1, Dynamic.GATED, 32, 32, *each) for each in flags]
    traced = ("task.same_step", "task.output_gate", "task.bptt")
    config = make_config(cells[0], streams)
    lanes = [{name: cell.overrides[name] for name in traced} for cell in cells]
    together, single = Timed(config, lanes), Timed(config)

    def in_turn() -> None:
        for _ in cells:
            single()

    times = interleaved({"lanes": together, "runs": in_turn}, args.rounds, args.calls)
    ours, theirs = (statistics.median(times[name]) for name in ("lanes", "runs"))
    row = {
        "name": f"12 lanes, {streams} streams, N = H = 32",
        "ours": ours,
        "theirs": theirs,
        "unit": "s/call",
        "ratio": round(theirs / ours, 3),
        "bytes": together.bytes_per_call,
        "compile_seconds": round(together.compile_seconds, 2),
        "compile_seconds_of_one": round(single.compile_seconds, 2),
    }
    speeds = f"{row['bytes'] / ours:,.0f} | {row['bytes'] / theirs:,.0f}"
    compiling = f"{row['compile_seconds']} | {row['compile_seconds_of_one']}"
    print(f"| {row['name']} | {speeds} | {row['ratio']} | {compiling} |", flush=True)
    return row


def run_large(streams: int, args: argparse.Namespace) -> dict[str, Any]:
    """Compare the step of a layer of 256 states with a large matmul."""
    from step_matmuls import Peak

    from flaxae.models.byte_lm.grid_cells import Cell
    from flaxae.models.byte_lm.rates import Timed
    from flaxae.models.byte_lm.recurrence import Dynamic

    cell = Cell(1, Dynamic.GATED, 256, 256, True, False, 2)
    step, peak = Timed(make_config(cell, streams)), Peak(1024)
    times: list[float] = []
    for _ in range(args.rounds):
        peak.measure()
        times += interleaved({"step": step}, 1, 1)["step"]
    ours = cell.cost * step.bytes_per_call / statistics.median(times) / 1e9
    row = {
        "name": f"step, {streams} streams, N = H = 256",
        "ours": round(ours, 2),
        "theirs": round(peak.gflops(), 2),
        "unit": "GFLOP/s",
        "ratio": round(ours / peak.gflops(), 3),
        "compile_seconds": round(step.compile_seconds, 2),
    }
    print(f"{row['name']}: {row['ours']} GFLOP/s, a matmul {row['theirs']}: {row['ratio']:.0%}")
    return row


def main(argv: list[str]) -> int:
    """Measure all cases; print their table and the JSON line."""
    args = _arguments(argv)
    _threads.pin(args.threads)
    print(f"{HEAD}\n{'|---' * 6}|")
    cases = [run_lanes(streams, args) for streams in args.streams]
    print()
    cases += [run_large(streams, args) for streams in args.large_streams]
    machine = platform.processor() or platform.machine()
    result = {"name": "byte_lm_lanes", "cases": cases, "threads": args.threads, "machine": machine}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
