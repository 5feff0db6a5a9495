"""Overhead of the training loop over the bare jitted step: `python benchmarks/loop_overhead.py`.

Blocks of bare steps (the same compiled function with batches on the device) alternate with blocks
of the loop's own steps in one process, so that both see the same machine; times are medians over
blocks. Then the loop runs a tiny model with `steps_per_call` 16 and 1. Evaluation, sampling and
saving are outside of the blocks.
"""

import argparse
import json
import platform
import runpy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxae.config import Config, copy_config
from flaxae.machine import sharding
from flaxae.storage import workdir
from flaxae.training.loop import Loop
from flaxae.training.setup import make_setup

ROOT = Path(__file__).resolve().parents[1]


def demo_config(**overrides: Any) -> Config:
    """Return the demo's config without evaluation, sampling and saving."""
    config = runpy.run_path(str(ROOT / "configs/t5_vae/python_lines.py"))["get_config"]("copy")
    never = {"log.progress": False, "eval.every": 0, "eval.sample_every": 0, "save.every": 10**9}
    return copy_config(config, never | {"eval.num_batches": 1, "eval.num_samples": 1} | overrides)


class Interleaved:
    """A step function that times a block of bare steps after each block of the loop's steps."""

    def __init__(self, loop: Loop, block: int):
        self.step_fn, self.block, self.count = loop.step_fn, block, 0
        rows = sharding.batch_sharding(loop.setup.mesh)
        self.batches = [sharding.put(loop.setup.feed.sources[0].batch(i), rows) for i in range(4)]
        self.state: Any = None
        self.loop_times: list[float] = []
        self.bare_times: list[float] = []

    def __call__(self, state: Any, frozen: Any, batch: Any, hparams: Any) -> Any:
        """Make one step of the loop, and a block of bare steps after each block."""
        if self.count % self.block == 0:
            jax.block_until_ready(state)
            if self.count:
                self.loop_times.append((time.perf_counter() - self.began) / self.block)
            if self.state is None:
                self.state = jax.tree.map(jnp.copy, state)
            began = time.perf_counter()
            for i in range(self.block):
                mine = self.batches[i % len(self.batches)]
                self.state, _ = self.step_fn(self.state, frozen, mine, hparams)
            jax.block_until_ready(self.state)
            self.bare_times.append((time.perf_counter() - began) / self.block)
            self.began = time.perf_counter()
        self.count += 1
        return self.step_fn(state, frozen, batch, hparams)


def compare_loop_with_step(blocks: int, block: int) -> dict[str, Any]:
    """Measure the loop and the bare step; return the entry of the JSON line."""
    config = demo_config(**{"steps": (blocks + 2) * block + 1})
    with tempfile.TemporaryDirectory() as folder:
        config = workdir.prepare(config, Path(folder), None, True)
        with Loop(make_setup(config, Path(folder))) as loop:
            loop.step_fn = timed = Interleaved(loop, block)
            loop.train()
    # The first block of each side compiles or warms up.
    ours, bare = timed.loop_times[1:], timed.bare_times[1:]
    overhead = statistics.median(ours) / statistics.median(bare) - 1
    print(f"{'':24}{'ms per step':>12}")
    print(f"{'bare jitted step':24}{statistics.median(bare) * 1e3:12.2f}")
    print(f"{'whole loop':24}{statistics.median(ours) * 1e3:12.2f}")
    print(f"overhead {overhead:.2%} (median of {len(ours)} blocks of {block} steps)")
    return {
        "name": "loop/bare",
        "ours": statistics.median(ours),
        "theirs": statistics.median(bare),
        "unit": "s/step",
        "ratio": statistics.median(bare) / statistics.median(ours),
    }


def compare_steps_per_call(steps: int) -> dict[str, Any]:
    """Measure `steps_per_call` of 1 and 16 on a tiny model; return the entry of the JSON line."""
    times: dict[int, list[float]] = {1: [], 16: []}
    small = {
        "task.t5.d_model": 16,
        "task.t5.d_ff": 32,
        "task.t5.num_heads": 2,
        "task.latent.dim": 8,
        "data.batch_size": 8,
        "data.max_lines": 2000,
        "data.vocab_size": 300,
    }
    for _ in range(3):
        for n in times:
            config = demo_config(
                **small, **{"steps": steps, "steps_per_call": n, "log.every": steps // 4}
            )
            config = copy_config(config, {"save.every": 16 * 10**6})
            with tempfile.TemporaryDirectory() as folder:
                config = workdir.prepare(config, Path(folder), None, True)
                with Loop(make_setup(config, Path(folder))) as loop:
                    loop.train()
                lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            rates = [r["time/steps_per_second"] for r in rows if r["split"] == "train"]
            times[n] += [1 / r for r in rates[1:]]
    one, many = (statistics.median(times[n]) for n in (1, 16))
    print(f"tiny model: {one * 1e3:.3f} ms per step, {many * 1e3:.3f} ms with steps_per_call=16")
    return {
        "name": "steps_per_call 16/1",
        "ours": many,
        "theirs": one,
        "unit": "s/step",
        "ratio": one / many,
    }


def main() -> None:
    """Measure both cases and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--tiny-steps", type=int, default=1600)
    args = parser.parse_args()
    cases = [
        compare_loop_with_step(args.blocks, args.block),
        compare_steps_per_call(args.tiny_steps),
    ]
    machine = platform.processor() or platform.machine()
    print(json.dumps({"name": "loop_overhead", "machine": machine, "cases": cases}))


if __name__ == "__main__":
    main()
