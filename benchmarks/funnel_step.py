"""A Funnel Transformer, forward and backward, compared with transformers (needs `make env-parity`).

Encoder and decoder at the same sizes, with the same weights, ids, padding and number of threads, in
float32. The loss is the mean of the squared states. Both sides and one large matmul alternate in
one process; times are medians over the rounds. Before, states and losses are compared.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _threads
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

# (width, layers of each block, layers of the decoder, rows, tokens)
SIZES = {
    "small": (256, (2, 2, 2), 2, 16, 128),
    "wide": (512, (2, 2, 2), 2, 8, 128),
    "long": (256, (2, 2, 2), 2, 4, 512),
}
VOCABULARY = 2000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", default="factorized", choices=("factorized", "shift"))
    return parser.parse_args()


def make_batch(rows: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and a mask: rows of random ids, padded on the right after half to all tokens."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, VOCABULARY, (rows, tokens)).astype(np.int32)
    ends = rng.integers(tokens // 2, tokens + 1, rows)
    mask = (np.arange(tokens) < ends[:, None]).astype(np.float32)
    return np.where(mask > 0, ids, 0).astype(np.int32), mask


def our_side(folder: Path, size: str, attention: str) -> tuple[Callable[[], float], float]:
    """Return our step, which returns its loss, and its FLOPs; write its weights into a folder."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from flaxae.lm.funnel import params
    from flaxae.lm.funnel.config import AttentionType, FunnelConfig
    from flaxae.lm.funnel.modeling import Funnel
    from flaxae.task import Context

    width, blocks, decoder, rows, tokens = SIZES[size]
    kind = AttentionType.FACTORIZED if attention == "factorized" else AttentionType.RELATIVE_SHIFT
    config = FunnelConfig(
        vocab_size=VOCABULARY,
        d_model=width,
        d_ff=4 * width,
        num_heads=width // 64,
        d_head=64,
        block_sizes=blocks,
        num_decoder_layers=decoder,
        attention_type=kind,
        hf_compat_mask=True,
        scan_unroll=8,
    )
    graph, state = nnx.split(Funnel(config, rngs=nnx.Rngs(0)))
    params.save(folder, nnx.to_pure_dict(state), config)
    ids, mask = make_batch(rows, tokens)
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))

    def loss(state: Any) -> Any:
        states = nnx.merge(graph, state)(jnp.asarray(ids), ctx, mask=jnp.asarray(mask))
        return jnp.mean(jnp.square(states))

    compiled = jax.jit(jax.value_and_grad(loss)).lower(state).compile()
    flops = dict(compiled.cost_analysis() or {}).get("flops", 0.0)

    def step() -> float:
        value, grads = compiled(state)
        jax.block_until_ready(grads)
        return float(value)

    return step, flops


def their_side(folder: Path, size: str) -> Callable[[], float]:
    """Return the step of transformers' model with the weights of a folder."""
    import torch
    from transformers import FunnelModel

    model = FunnelModel.from_pretrained(folder)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids, mask = make_batch(*SIZES[size][3:])
    ids, mask = torch.from_numpy(ids).long(), torch.from_numpy(mask)

    def step() -> float:
        model.zero_grad(set_to_none=True)
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        loss = states.square().mean()
        loss.backward()
        return float(loss.detach())

    return step


def run_size(size: str, args: argparse.Namespace, peak: Any) -> dict[str, Any]:
    """Measure a size, print its times and return its entry for the JSON line."""
    with tempfile.TemporaryDirectory() as name:
        ours, flops = our_side(Path(name), size, args.attention)
        theirs = their_side(Path(name), size)
    sides = {"ours": ours, "theirs": theirs}
    losses = {name: step() for name, step in sides.items()}
    if abs(losses["ours"] - losses["theirs"]) > 1e-4 * abs(losses["theirs"]):
        sys.exit(f"{size}: the losses differ: {losses}")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(args.rounds + 1):
        for name, step in sides.items():
            step()  # warms the caches and the thread pool again
            began = time.perf_counter()
            step()
            if i > 0:
                times[name].append(time.perf_counter() - began)
        peak.measure()
    seconds = {name: statistics.median(values) for name, values in times.items()}
    ratio = seconds["theirs"] / seconds["ours"]
    rate = flops / seconds["ours"] / 1e9
    print(
        f"{size:6} {SIZES[size]}: flaxae {seconds['ours'] * 1e3:.1f} ms ({rate:.0f} GFLOP/s), "
        f"transformers {seconds['theirs'] * 1e3:.1f} ms, ratio {ratio:.2f}; large matmul "
        f"{peak.gflops():.0f} GFLOP/s",
        flush=True,
    )
    return {
        "name": f"funnel step, {size}",
        "ours": seconds["ours"],
        "theirs": seconds["theirs"],
        "unit": "s/step",
        "ratio": round(ratio, 3),
        "gflop": round(flops / 1e9, 2),
        "best_ratio": round(min(times["theirs"]) / min(times["ours"]), 3),
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
                "name": "funnel_step",
                "cases": cases,
                "threads": args.threads,
                "attention": args.attention,
                "peak_gflops": round(peak.gflops(), 1),
                "torch": torch.__version__,
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
