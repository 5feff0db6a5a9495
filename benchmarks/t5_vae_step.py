"""The training step of the T5-VAE compared with PyTorch (needs `make env-parity`).

Both sides use the same sizes, batches in length buckets, optimizer (AdamW with clipping), float32
and number of threads. Blocks of steps of both sides, the step's matmuls in isolation, and one large
matmul alternate in one process; times are medians over the rounds. `share` is the time of the
step's matmuls in isolation / the time of the step.
"""

import argparse
import json
import platform
import runpy
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import _threads

from flaxae.training.hparams import make_hparams
from flaxae.training.layout import make_layout
from flaxae.training.state import abstract_state, make_state

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

SIZES = {
    "demo": {},
    "9.4M": {
        "task.t5.d_model": 256,
        "task.t5.d_ff": 1024,
        "task.t5.d_kv": 64,
        "task.t5.num_heads": 4,
        "task.t5.num_layers": 3,
        "task.t5.num_decoder_layers": 3,
        "task.t5.scan_unroll": 3,
        "task.latent.dim": 128,
        "data.vocab_size": 6000,
        "data.batch_size": 32,
        "data.num_buckets": 1,
    },
}
# The lengths of the demo's buckets (python_lines, Python 3.11, a vocabulary of 4096).
BUCKETS = {"demo": (8, 12, 16, 32), "9.4M": (32,)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--block", type=int, default=3, help="steps per side and round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also try torch.compile (minutes)")
    parser.add_argument("--shapes", action="store_true", help="print the matmuls one by one")
    return parser.parse_args()


def make_batch(lengths: tuple[int, ...], rows: int, vocab_size: int) -> dict[str, Any]:
    """Return random ids like a loader's batch, with lengths spread over each bucket's range."""
    import numpy as np

    rng = np.random.default_rng(0)
    out, shortest = {}, 4
    for length in lengths:
        ids = rng.integers(3, vocab_size, (rows, length)).astype(np.int32)
        ends = rng.integers(shortest, length + 1, rows)
        ids[np.arange(length) >= ends[:, None]] = 0
        ids[np.arange(rows), ends - 1] = 1
        out[f"{length:03d}"] = {"ids": ids, "weight": np.ones(rows, np.float32)}
        shortest = length
    return out


class OurStep:
    """flaxae's jitted step, made as in the training loop."""

    def __init__(self, config: Any):
        import jax

        from flaxae.machine import sharding
        from flaxae.training import step as train_step

        self.jax, self.task = jax, config.task.make(config)
        self.mesh = sharding.make_mesh(config.mesh)
        with jax.set_mesh(self.mesh):
            layout = make_layout(self.task, config)
            abstract = abstract_state(self.task, config, self.mesh)
            shardings = jax.tree.map(lambda x: x.sharding, abstract)
            hparams = make_hparams(self.task, [config], lanes=False)
            replicated = sharding.replicated(self.mesh)
            self.hparams = sharding.put(jax.device_get(hparams), replicated)
            init = jax.jit(lambda h: make_state(self.task, config, h), out_shardings=shardings)
            self.state = init(self.hparams)
            self.step = train_step.make_train_step(self.task, config, layout, shardings)
        self.rows = sharding.batch_sharding(self.mesh)

    def num_parameters(self) -> int:
        """Return the number of trained parameters."""
        return sum(x.size for x in self.jax.tree.leaves(self.state["params"]))

    def put(self, batch: Any) -> Any:
        """Put a batch on the devices."""
        from flaxae.machine import sharding

        return sharding.put(batch, self.rows)

    def __call__(self, batch: Any) -> float:
        """Make one step and return its loss."""
        with self.jax.set_mesh(self.mesh):
            self.state, metrics = self.step(self.state, {}, batch, self.hparams)
            return float(metrics["loss"][-1])


def timed(step: Any, batch: Any, count: int) -> float:
    """Return the seconds per step; each step's loss is read, as in a training loop."""
    began = time.perf_counter()
    for _ in range(count):
        step(batch)
    return (time.perf_counter() - began) / count


def fastest_torch(config: Any, batch: Any, compiled: bool) -> tuple[Any, str]:
    """Return the fastest of the options that an experienced user would try, and its name."""
    from torch_t5_vae import TorchStep

    sides = {}
    for attention in ("sdpa", "eager"):
        for fused in (True, False):
            for compile_it in (False, True) if compiled and fused else (False,):
                name = f"{attention}, {'fused' if fused else 'foreach'} AdamW"
                name += ", torch.compile" if compile_it else ""
                options = {"attention": attention, "fused": fused, "compiled": compile_it}
                sides[name] = TorchStep(config, config.data.vocab_size, **options)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(6):
        for name, step in sides.items():
            seconds = timed(step, step.put(batch), 1)
            if i > 0:  # the first step compiles or fills caches
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print("torch: " + "; ".join(f"{k} {v * 1e3:.0f} ms" for k, v in medians.items()), flush=True)
    name = min(medians, key=lambda k: medians[k])
    return sides[name], name


def run_size(size: str, args: argparse.Namespace, peak: Any) -> dict[str, Any]:
    """Measure a size, print its times and return its entry for the JSON line."""
    from step_matmuls import Isolated, products

    from flaxae.config import copy_config

    config = runpy.run_path(str(ROOT / "configs/t5_vae/python_lines.py"))["get_config"]("copy")
    config = copy_config(config, SIZES[size])
    rows = config.data.batch_size // config.data.num_buckets
    batch = make_batch(BUCKETS[size], rows, config.data.vocab_size)
    ours = OurStep(config)
    print(
        f"\n{size}: {ours.num_parameters() / 1e6:.2f} M parameters, rows x tokens: "
        + ", ".join(f"{rows} x {length}" for length in BUCKETS[size]),
        flush=True,
    )
    theirs, picked = fastest_torch(config, batch, args.compile)
    assert theirs.num_parameters() == ours.num_parameters(), "the two sides differ in size"
    matmuls = Isolated(
        products(config, config.data.vocab_size, [(rows, length) for length in BUCKETS[size]])
    )
    sides = {"ours": (ours, ours.put(batch)), "torch": (theirs, theirs.put(batch))}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(args.rounds + 1):
        for name, (step, data) in sides.items():
            step(data)  # warms the caches and the thread pool again
            seconds = timed(step, data, args.block)
            if i > 0:
                times[name].append(seconds)
        matmuls.measure()
        peak.measure()
    ms = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    low = {name: min(values) * 1e3 for name, values in times.items()}
    ms["matmuls"], low["matmuls"] = (
        sum(row[2] for row in matmuls.rows(best)) * 1e3 for best in (False, True)
    )
    gflop = matmuls.flops() / 1e9
    print(f"{'':34}{'median ms':>10}{'best ms':>10}{'GFLOP/s':>10}")
    names = {
        "ours": "flaxae",
        "torch": f"torch ({picked})",
        "matmuls": "the step's matmuls, isolated",
    }
    for name, label in names.items():
        print(f"{label:34}{ms[name]:10.1f}{low[name]:10.1f}{gflop / ms[name] * 1e3:10.1f}")
    ratio, share = ms["torch"] / ms["ours"], ms["matmuls"] / ms["ours"]
    print(
        f"torch / flaxae {ratio:.2f} (best {low['torch'] / low['ours']:.2f}), "
        f"share {share:.2f} (best {low['matmuls'] / low['ours']:.2f}), "
        f"large matmul (2048^3) {peak.gflops():.0f} GFLOP/s",
        flush=True,
    )
    if args.shapes:
        for p, count, seconds in matmuls.rows():
            rate = count * p.flops / seconds / 1e9
            print(
                f"  {count:3} x ({p.batch}) {p.m} x {p.k} x {p.n}: "
                f"{seconds * 1e3:.2f} ms, {rate:.0f} GFLOP/s"
            )
    return {
        "name": f"t5_vae step, {size}",
        "ours": ms["ours"] / 1e3,
        "theirs": ms["torch"] / 1e3,
        "unit": "s/step",
        "ratio": round(ratio, 3),
        "best_ours": low["ours"] / 1e3,
        "best_theirs": low["torch"] / 1e3,
        "best_ratio": round(low["torch"] / low["ours"], 3),
        "matmuls": ms["matmuls"] / 1e3,
        "share": round(share, 3),
        "best_share": round(low["matmuls"] / low["ours"], 3),
        "gflop": round(gflop, 2),
        "torch": picked,
        "parameters": ours.num_parameters(),
    }


def main() -> None:
    """Measure all sizes and print the JSON line."""
    args = _arguments()
    _threads.pin(args.threads)
    try:
        import torch
    except ImportError:
        sys.exit("this benchmark needs torch: make env-parity")
    torch.set_num_threads(args.threads)
    from step_matmuls import Peak

    peak = Peak()
    cases = [run_size(size, args, peak) for size in args.sizes]
    print(
        json.dumps(
            {
                "name": "t5_vae_step",
                "cases": cases,
                "threads": args.threads,
                "peak_gflops": round(peak.gflops(), 1),
                "torch": torch.__version__,
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
