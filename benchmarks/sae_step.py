"""Training steps of sparse autoencoders, compared with SAELens (needs `make test-sae-parity`).

    .venv-sae/bin/python benchmarks/sae_step.py

States of 576 features, 4,608 latents, batches of 4,096 states, k = 32, float32: the sizes of the
config for SmolLM2-135M. A step is the whole one of each trainer: forward, backward, clipping, Adam,
counters of activity. Both sides have the same weights, batches and threads, and SAELens' losses;
standard is compared without and topk and batch_topk with the decoder's bias subtracted from the
input, as each is published. `model` puts the forward pass of SmolLM2-135M up to layer 15 before
each step: 16 rows of 256 tokens, ours by `StateReader`, theirs as SAELens' activations store calls
a model of transformers (`run_with_cache`, stopped at the layer).

Counted before measuring, per step. A dense matmul of all states and latents, 2 * 4,096 * 576 *
4,608, is 21.7 GFLOP.

- standard: encoder and decoder forward, the gradients of both weights and of the latents: 5 matmuls
  on both sides, 109 GFLOP. SAELens with its default (the bias is subtracted) has a sixth, the
  gradient of the input, which only the bias needs; ours takes the sum of rows first (6 / 5 = 1.2).
- topk and batch_topk, SAELens: 6 matmuls, 130 GFLOP, with zeros for all but 32 latents. Ours, on a
  CPU: the encoder's matmul, 21.7 GFLOP, and four products with the 32 chosen rows of a matrix, 0.15
  GFLOP each, which read and write rows of 576 numbers at random (0.3 GB each). `--products` times
  both forms (any environment of flaxae will do), and top-k beside a sort.
- the language model up to layer 15: 16 of 30 layers, 2 * 57 M weights without the embeddings, plus
  attention: 0.47 TFLOP for 4,096 tokens, four to five times as much as a dense step.

Both sides and one large matmul alternate in one process; times are medians over the rounds. Before,
losses are compared. SAELens' topk has dense latents, its default: with `use_sparse_activations` its
backward pass fails on a CPU (sae-lens 6.54.12, torch 2.13: no aten::view of SparseCPU). No latent
is dead in so few steps, so that the time of AuxK is not part of any row.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _threads
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

D_IN, D_SAE, K, LAYER, LENGTH = 576, 4608, 32, 15, 256
# name -> (our architecture, their architecture, their options)
CASES = {
    "topk": ("topk", "topk", {"k": K}),
    "batch_topk": ("batch_topk", "batchtopk", {"k": K}),
    "standard": ("standard", "standard", {"apply_b_dec_to_input": False}),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--model", action="store_true", help="with the language model's forward")
    parser.add_argument("--products", action="store_true", help="products of codes, on their own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4096, help="states per step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds, on busy machines")
    return parser.parse_args()


def config_of(architecture: str, rows: int) -> Any:
    """Return our config: SAELens' losses, a constant learning rate, no other normalisation."""
    from torch_sae_lens import our_config

    return our_config(architecture, {"task.dead_after": 1001 * rows})


def make_states(count: int, rows: int) -> list[np.ndarray]:
    """Return batches of states with norms near sqrt(d_in), as a normaliser makes them."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(D_IN, D_IN)).astype(np.float32) / D_IN**0.5
    return [rng.normal(size=(rows, D_IN)).astype(np.float32) @ mixing for _ in range(count)]


def endless(batches: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield batches, again and again."""
    while True:
        yield from batches


def sides_of(
    case: str, rows: int, states: dict[str, Callable[[], Iterator[np.ndarray]]]
) -> dict[str, Callable[[], float]]:
    """Return a step per side, which returns its loss.

    Args:
        case: name of the case.
        rows: states per step.
        states: side -> the function that returns its states.
    """
    import torch_sae_lens

    from flaxae.models.sae.synthetic import Trainer
    from flaxae.sparse_autoencoder.parameters import values

    ours, theirs, options = CASES[case]
    config = config_of(ours, rows)
    if case == "standard":
        options = options | {"l1_coefficient": config.task.loss.sparsity}
    trainer = Trainer(config, D_IN)
    sae = torch_sae_lens.training_sae(theirs, d_in=D_IN, d_sae=D_SAE, **options)
    start = {n: x for n, x in values(trainer.dictionary()).items() if x.ndim}
    torch_sae_lens.set_parameters(sae, start)
    side = torch_sae_lens.trainer(
        sae, states["theirs"](), rows=rows, steps=10**6, lr=config.optim.lr, dead_window=1000
    )
    mine = states["ours"]()
    return {
        "ours": lambda: float(trainer.step(next(mine))["loss"]),
        "theirs": lambda: torch_sae_lens.step(side).loss.item(),
    }


def language_models(rows: int) -> dict[str, Callable[[], Iterator[np.ndarray]]]:
    """Return side -> the function that returns states of SmolLM2-135M, by its forward pass."""
    import torch
    from sae_lens.load_model import HookedProxyLM
    from transformers import LlamaForCausalLM

    from flaxae import lm
    from flaxae.activations.stream import StateReader, Tap

    opened = lm.load("smollm2-135m")
    ids = np.random.default_rng(1).integers(3, 49_000, (rows // LENGTH, LENGTH)).astype(np.int32)
    mask = np.ones(ids.shape, np.float32)
    reader = StateReader(opened.model, [Tap("resid_out", LAYER)], 8)
    with tempfile.TemporaryDirectory() as folder:
        opened.save(folder)
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    name = f"model.layers.{LAYER}"
    hooked = HookedProxyLM(model, None, hook_names=[name])
    tokens = torch.from_numpy(ids).long()

    def ours() -> Iterator[np.ndarray]:
        while True:
            yield reader(ids, mask)[0].reshape(rows, -1)

    def theirs() -> Iterator[np.ndarray]:
        while True:
            with torch.no_grad():
                found = hooked.run_with_cache(
                    tokens, names_filter=[name], stop_at_layer=LAYER + 1, prepend_bos=False
                )[1][name]
            yield found.reshape(rows, -1).numpy()

    a, b = next(ours()), next(theirs())
    if np.abs(a - b).max() > 1e-3 * np.abs(b).max():
        sys.exit(f"the states differ by {np.abs(a - b).max()}, the largest is {np.abs(b).max()}")
    return {"ours": ours, "theirs": theirs}


def run_case(case: str, args: argparse.Namespace, states: Any, peak: Any) -> dict[str, Any]:
    """Measure a case, print its speed and return its entry for the JSON line."""
    clock = time.process_time if args.cpu_time else time.perf_counter
    sides = sides_of(case, args.rows, states)
    losses = {name: step() for name, step in sides.items()}
    if abs(losses["ours"] - losses["theirs"]) > 1e-4 * abs(losses["theirs"]):
        sys.exit(f"{case}: the losses differ: {losses}")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, step in sides.items():
            step()  # warms the caches and the thread pool again
            began = clock()
            step()
            times[name].append(clock() - began)
        peak.measure()
    speed = {name: args.rows / statistics.median(values) for name, values in times.items()}
    ratio = speed["ours"] / speed["theirs"]
    what = f"{case}{', with the language model' if args.model else ''}"
    print(
        f"{what}: flaxae {speed['ours']:,.0f} tokens/s, SAELens {speed['theirs']:,.0f}, ratio "
        f"{ratio:.2f}; large matmul {peak.gflops():.0f} GFLOP/s",
        flush=True,
    )
    return {
        "name": what,
        "ours": round(speed["ours"]),
        "theirs": round(speed["theirs"]),
        "unit": "CPU tokens/s" if args.cpu_time else "tokens/s",
        "ratio": round(ratio, 3),
        "best_ratio": round(min(times["theirs"]) / min(times["ours"]), 3),
    }


def products(rows: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return and print the milliseconds of products, by all rows and by the chosen ones."""
    import jax
    import jax.numpy as jnp

    from flaxae.sparse_autoencoder.chosen_rows import Chosen, weighted_rows

    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    z, table, grad = draw(rows, D_SAE), draw(D_SAE, D_IN), draw(rows, D_IN)
    values, indices = jax.jit(lambda z: jax.lax.top_k(z, K))(z)
    chosen = Chosen(indices, jnp.full(rows, K, jnp.int32))

    def by_few(values: Any, table: Any, grad: Any) -> Any:
        return jax.vjp(lambda v, t: weighted_rows(v, chosen, t, K), values, table)[1](grad)

    def by_all(f: Any, table: Any, grad: Any) -> Any:
        return jax.vjp(jnp.matmul, f, table)[1](grad)

    calls = {
        "all latents, output": (jnp.matmul, (z, table)),
        "all latents, both gradients": (by_all, (z, table, grad)),
        "chosen rows, output": (lambda v, t: weighted_rows(v, chosen, t, K), (values, table)),
        "chosen rows, both gradients": (by_few, (values, table, grad)),
        "top-k": (lambda z: jax.lax.top_k(z, K), (z,)),
        "sort": (lambda z: jnp.sort(z, axis=-1), (z,)),
    }
    found = {}
    for name, (function, at) in calls.items():
        call: Any = jax.jit(function)
        jax.block_until_ready(call(*at))
        times = []
        for _ in range(3):
            began = clock()
            jax.block_until_ready(call(*at))
            times.append(clock() - began)
        found[name] = round(1e3 * statistics.median(times), 1)
        print(f"{name:28} {found[name]:8.1f} ms", flush=True)
    return found


def main() -> None:
    """Measure all cases and print the JSON line."""
    args = _arguments()
    _threads.pin(args.threads)
    if args.products:
        clock = time.process_time if args.cpu_time else time.perf_counter
        print(json.dumps({"name": "sae_products", "ms": products(args.rows, clock)}))
        return
    try:
        import sae_lens
        import torch
    except ImportError:
        sys.exit("this benchmark needs SAELens: make test-sae-parity, and .venv-sae/bin/python")
    torch.set_num_threads(args.threads)
    from step_matmuls import Peak

    peak = Peak()
    if args.model:
        states: Any = language_models(args.rows)
    else:
        batches = make_states(4, args.rows)
        states = dict.fromkeys(("ours", "theirs"), lambda: endless(batches))
    cases = [run_case(case, args, states, peak) for case in args.cases]
    print(
        json.dumps(
            {
                "name": "sae_step",
                "cases": cases,
                "threads": args.threads,
                "rows": args.rows,
                "peak_gflops": round(peak.gflops(), 1),
                "torch": torch.__version__,
                "sae_lens": sae_lens.__version__,
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
