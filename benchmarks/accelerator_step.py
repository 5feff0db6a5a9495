"""Step time, tokens/s, MFU and peak memory of full-size train steps in bfloat16 on an accelerator.

    python benchmarks/accelerator_step.py                         # all cases, all their batch sizes
    python benchmarks/accelerator_step.py --cases t5_base_vae --batches 256 512
    python benchmarks/accelerator_step.py --set task.loss_chunks=8 --profile
    python benchmarks/accelerator_step.py --tiny --platform=cpu   # the code path, on any machine
    FLAXAE_GPU_KERNELS=off python benchmarks/accelerator_step.py  # without the kernels of nn/gpu

It needs no data: parameters, ids and states are random, and batches contain no padding. Batch sizes
grow until one does not fit; the best has the highest MFU, or the most tokens per second if the
device's peak is unknown. A step is the training loop's own step: loss, gradients, clipping and
optimizer, with donated state. FLOPs are the task's own count, without recomputation. GB are
arguments, temporaries and new outputs of the compiled step. Without an accelerator nothing is
measured, and the exit code is 0.
"""

import argparse
import ast
import dataclasses
import gc
import json
import math
import os
import platform
import runpy
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from flaxae.data.config import TextDataConfig
from flaxae.training.hparams import make_hparams
from flaxae.training.layout import init_model, make_layout
from flaxae.training.state import abstract_state, make_state

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

GOAL = 0.45  # MFU; in the JSON, "theirs" is the time of a step that reaches it
WARM_UP = 3  # steps before the measurement


@dataclasses.dataclass(frozen=True)
class Case:
    """A full-size training step of a model family.

    Attributes:
        config: config file with its preset after a colon.
        batches: values of data.batch_size in ascending order.
        overrides: config fields for all measurements.
        variants: additional overrides by name; all variants are measured and the fastest counts.
        tiny: overrides that make the model small enough for a CPU.
        tokens: names of the batch's leaves whose elements count as tokens.
        places: names of leaves that contain 0, 1, 2, ... along a row instead of ids.
        ones: names of leaves that contain ones.
        normal: names of leaves that contain normal random numbers.
        precision: precision of the computation, for the JSON.
    """

    config: str
    batches: tuple[int, ...]
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = dataclasses.field(default_factory=lambda: {"plain": {}})
    tiny: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokens: tuple[str, ...] = ("ids",)
    places: tuple[str, ...] = ()
    ones: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()
    precision: str = "bfloat16"


CASES = {
    "t5_base_vae": Case(
        config="configs/t5_vae/wikipedia_base.py:scratch",
        batches=(128, 256, 512, 1024, 1280, 1536, 2048, 4096),
        overrides={"task.t5.dtype": "bfloat16"},
        variants={
            "plain": {},  # its layers are unrolled
            "scanned": {"task.t5.scan_unroll": 1},
            "remat": {"task.t5.scan_unroll": 1, "task.t5.remat": True},
        },
        tiny={
            "task.t5.d_model": 32,
            "task.t5.d_ff": 64,
            "task.t5.d_kv": 16,
            "task.t5.num_heads": 2,
            "task.t5.num_layers": 1,
            "task.t5.num_decoder_layers": 1,
            "task.t5.vocab_size": 256,
            "task.noise.mask_id": 2,
            "data.vocab_size": 256,
            "data.max_length": 16,
            "data.num_buckets": 1,
            "data.bucket_edges": (),
        },
    ),
    # LoRA on a random frozen base in bfloat16, with one example per row and all tokens as targets.
    "smollm2_lora": Case(
        config="configs/causal_lm/smollm2_lora.py:lora",
        batches=(16, 32, 64, 128, 256),
        overrides={
            "pretrained": "",
            "task.sizes": "smollm2-135m",
            "task.weights": "bfloat16",
            "task.dtype": "bfloat16",
            "data.max_length": 512,
            "data.vocab_size": 49152,
        },
        variants={"plain": {}, "remat": {"task.remat": True}},
        tiny={"task.sizes": "llama-tiny", "data.vocab_size": 256, "data.max_length": 16},
        places=("positions", "where"),
        ones=("segment_ids",),
    ),
    "phi2_lora": Case(
        config="configs/causal_lm/phi2_lora.py:scratch",
        batches=(16, 32, 64, 128),
        overrides={"data.vocab_size": 51200},
        tiny={"task.sizes": "phi-tiny", "data.vocab_size": 256, "data.max_length": 16},
        places=("positions", "where"),
        ones=("segment_ids",),
    ),
    # Prompts, 2 tokens per point, are drawn on the device. b is 20 from the first step, so that the
    # FLOPs are those of 20 loops. Products use the device's default precision for float32.
    "looped": Case(
        config="configs/looped/linear.py:full",
        batches=(64, 256, 1024, 4096, 16384),
        overrides={"task.loops_every": 0, "steps_per_call": 1},
        variants={"remat": {}, "plain": {"task.model.remat": False}},
        tiny={
            "task.model.width": 8,
            "task.model.num_heads": 2,
            "task.model.dims": 2,
            "task.model.points": 4,
            "task.loops": 3,
            "task.grad_loops": 2,
        },
        precision="float32",
    ),
    # Streams of 64 bytes; the recurrent weights are read once per byte. Products as in `looped`.
    "byte_lm": Case(
        config="configs/byte_lm/enwik8.py",
        batches=(128, 512, 1024, 4096, 16384),
        overrides={"steps_per_call": 1},
        tiny={
            "task.layers": 1,
            "task.states": 8,
            "task.hidden": 8,
            "task.update": 8,
            "task.bptt": 8,
        },
        tokens=("x",),
        precision="float32",
    ),
    # A dictionary of random states, without the language model. Products as in `looped`.
    "sae_topk": Case(
        config="configs/sae/smollm2_topk.py",
        batches=(2048, 4096, 8192, 16384, 32768),
        overrides={"pretrained": "", "task.sizes": "smollm2-135m"},
        tiny={"task.sizes": "llama-tiny", "task.layer": 1, "task.d_sae": 64, "task.k": 4.0},
        tokens=("weight",),
        normal=("x",),
        precision="float32",
    ),
}
TINY_BATCHES = (32,)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--variants",
        nargs="+",
        default=[],
        help="variants to measure; default: all, with --tiny the first",
    )
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[], help="batch sizes; default: those of the case"
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the median")
    parser.add_argument("--steps", type=int, default=5, help="steps per round")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="config fields")
    parser.add_argument(
        "--profile", action="store_true", help="print the slowest kernels of each step"
    )
    parser.add_argument("--platform", default="", help="cpu: measure on the CPU")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to test the code")
    return parser.parse_args(argv)


def make_config(case: Case, batch: int, more: dict[str, Any], tiny: bool) -> Any:
    """Return a case's config with a batch size and more overrides."""
    from flaxae.config import copy_config

    file, _, preset = case.config.partition(":")
    get_config = runpy.run_path(str(ROOT / file))["get_config"]
    config = get_config(preset) if preset else get_config()
    fields = case.overrides | more | (case.tiny if tiny else {})
    return copy_config(config, fields | {"data.batch_size": batch})


def _overrides(texts: list[str]) -> dict[str, Any]:
    """Parse "a.b=value"; a value that is not a Python literal is a string."""
    out = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            out[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            out[name] = value
    return out


def random_batch(spec: Any, high: int, case: Case) -> Any:
    """Return random ids without padding; leaves that are neither ids nor positions are 1."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)

    def leaf(path: Any, x: Any) -> Any:
        name = str(getattr(path[-1], "key", "")) if path else ""
        if name in case.places:
            return np.broadcast_to(np.arange(x.shape[-1], dtype=x.dtype), x.shape)
        if np.issubdtype(x.dtype, np.integer) and name not in case.ones:
            return rng.integers(3, high, x.shape).astype(x.dtype)
        if name in case.normal:
            return rng.standard_normal(x.shape, x.dtype)
        return np.ones(x.shape, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, spec)


def _count_tokens(spec: Any, names: tuple[str, ...]) -> int:
    """Return the number of elements of the named leaves."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(spec)
    return sum(math.prod(x.shape) for path, x in leaves if str(path[-1].key) in names)


def measure(case: Case, config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one step; raise JAX's own error if it does not fit."""
    import jax

    from flaxae.machine import sharding
    from flaxae.training import metrics
    from flaxae.training import step as train_step

    task, mesh = config.task.make(config), sharding.make_mesh(config.mesh)
    spec, peak_before = task.batch_spec(), metrics.peak_memory_bytes()
    with jax.set_mesh(mesh):
        layout = make_layout(task, config)
        abstract = abstract_state(task, config, mesh)
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        hparams = make_hparams(task, [config], lanes=False)
        hparams = sharding.put(jax.device_get(hparams), sharding.replicated(mesh))
        init = jax.jit(partial(make_state, task, config), out_shardings=shardings)
        state = init(hparams)
        frozen = draw_frozen(task, config, mesh)
        rows = sharding.batch_sharding(mesh)
        # Looped problems are drawn on the device: their batch is empty. Other ids are bytes.
        texts = isinstance(config.data, TextDataConfig)
        vocab_size = config.data.vocab_size if texts else 256
        batch = sharding.put(random_batch(spec, vocab_size, case), rows)
        step = train_step.make_train_step(task, config, layout, shardings)
        began = time.perf_counter()
        step = step.lower(state, frozen, batch, hparams).compile()
        compile_seconds = time.perf_counter() - began

        def run(count: int) -> float:
            nonlocal state
            began, out = time.perf_counter(), None
            for _ in range(count):
                state, out = step(state, frozen, batch, hparams)
            jax.block_until_ready((state, out))
            return (time.perf_counter() - began) / count

        run(WARM_UP)
        times = [run(args.steps) for _ in range(args.rounds)]
        if args.profile:
            import _profile

            print(_profile.table(lambda: run(args.steps), args.steps), flush=True)
    seconds, tokens = statistics.median(times), _count_tokens(spec, case.tokens)
    tokens = (
        tokens or 2 * config.data.batch_size * config.task.model.points
    )  # the step draws its data
    flops, peak = task.flops(spec, {}), metrics.peak_memory_bytes()
    memory = step.memory_analysis()
    return {
        "batch": config.data.batch_size,
        "seconds": seconds,
        "fastest": min(times),
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "tflop": flops / 1e12,
        "mfu": metrics.mfu(flops, seconds, mesh.size),  # 0: the peak is unknown
        # Per device, by the compiler's count and as allocated. The latter is the largest of the
        # process so far, so it is this step's only if it has grown.
        "program_bytes": memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        "peak_memory_bytes": peak if peak > peak_before else None,
        "compile_seconds": compile_seconds,
        "devices": mesh.size,
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(abstract["params"])),
    }


def draw_frozen(task: Any, config: Any, mesh: Any) -> Any:
    """Return random frozen parameters on the mesh; {} for families without any."""
    import jax

    from flaxae.machine import sharding

    def make() -> Any:
        return init_model(task, jax.numpy.uint32(0), config.frozen_seed)["frozen"]

    shardings = sharding.infer_sharding(jax.eval_shape(make), mesh, task.sharding_rules)
    return jax.jit(make, out_shardings=shardings)()


def _out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def run_case(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Print a case's table and return its entry for the JSON line."""
    import jax

    case = CASES[name]
    batches = args.batches or (TINY_BATCHES if args.tiny else case.batches)
    print(f"\n{name}: {case.config}{' (tiny)' if args.tiny else ''}")
    print(
        f"{'variant':10}{'batch':>7}{'tokens':>9}{'ms/step':>10}{'tokens/s':>12}{'TFLOP/s':>9}"
        f"{'MFU':>9}{'GB':>9}{'peak GB':>9}{'compile s':>11}"
    )
    found: list[dict[str, Any]] = []
    for variant in args.variants or list(case.variants)[: 1 if args.tiny else None]:
        overrides = case.variants[variant]
        for batch in batches:
            config = make_config(case, batch, overrides | _overrides(args.set), args.tiny)
            gc.collect()  # frees the arrays of the previous size
            try:
                row = measure(case, config, args)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                print(f"{variant:10}{batch:7}  does not fit", flush=True)
                break
            found.append({"variant": variant, **row})
            print(_line(found[-1]), flush=True)
    if not found:
        return {"name": name, "ours": None, "theirs": None, "unit": "s/step", "ratio": None}
    best = max(found, key=lambda row: (row["mfu"], row["tokens_per_second"]))
    goal = best["seconds"] * best["mfu"] / GOAL or None
    allocator = "the process" if jax.default_backend() == "cpu" else "one device"
    print(
        f"best: {best['variant']}, batch {best['batch']}: {best['tokens_per_second']:.0f} "
        f"tokens/s, MFU {_mfu(best)}, {best['program_bytes'] / 1e9:.2f} GB per device, at most "
        f"{_peak(best)} GB allocated by {allocator}, "
        f"{best['parameters'] / 1e6:.1f} M parameters"
    )
    return {
        "name": f"{name} step, {case.precision}",
        "ours": best["seconds"],
        "theirs": goal,
        "unit": "s/step",
        "ratio": goal and round(goal / best["seconds"], 3),
        "theirs_is": f"a step of {GOAL:.0%} MFU",
        **best,
        "mfu": round(best["mfu"], 4) or None,
        "all": found,
    }


def _mfu(row: dict[str, Any]) -> str:
    return f"{row['mfu']:.1%}" if row["mfu"] else "unknown peak"


def _peak(row: dict[str, Any]) -> str:
    """Return the allocated GB; they are unknown if an earlier step needed more."""
    peak = row["peak_memory_bytes"]
    return f"{peak / 1e9:.2f}" if peak else "unknown"


def _line(row: dict[str, Any]) -> str:
    rate = row["tflop"] / row["seconds"] / row["devices"]
    mfu = f"{row['mfu']:9.1%}" if row["mfu"] else f"{'unknown':>9}"
    return (
        f"{row['variant']:10}{row['batch']:7}{row['tokens']:9}{row['seconds'] * 1e3:10.1f}"
        f"{row['tokens_per_second']:12.0f}{rate:9.2f}{mfu}"
        f"{row['program_bytes'] / 1e9:9.2f}{_peak(row):>9}{row['compile_seconds']:11.1f}"
    )


def main(argv: list[str]) -> int:
    """Measure all cases and print the JSON line."""
    args = _arguments(argv)
    # Before jax is imported: use almost all GPU memory; the driver and libraries need the rest.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.94")
    import jax

    from flaxae.nn import gpu

    if args.platform:
        jax.config.update("jax_platforms", args.platform)
    device = jax.devices()[0]
    about = {
        "name": "accelerator_step",
        "device": device.device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "machine": platform.processor() or platform.machine(),
        "gpu_kernels": gpu.mode(),
    }
    if device.platform == "cpu" and args.platform != "cpu":
        print("no accelerator: not measured")
        print(json.dumps(about | {"measured": False, "cases": []}))
        return 0
    print(f"{about['devices']} x {device.device_kind}, jax {jax.__version__}", flush=True)
    cases = [run_case(name, args) for name in args.cases]
    print(json.dumps(about | {"measured": True, "tiny": args.tiny, "cases": cases}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
