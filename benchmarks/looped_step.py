"""The training step of a looped transformer compared with PyTorch (needs `make env-parity`).

The other side is a GPT-2 block that is looped in the same way: b loops, the first b - T under
no_grad, the same loss over the last T, and the same sizes, batch, optimizer (Adam), float32 and
number of threads. It exists as transformers' GPT2Model, which PyTorch users have, and as written
here with torch's fused GELU and Adam, which is faster. Ratios are to the fastest and to GPT2Model.
Blocks of steps of both sides alternate in one process; times are medians over the rounds. Each case
also compiles our loops unrolled, for compile time and temporary memory, with plain LayerNorm and
GELU and with ours, which save only their inputs. It also measures our step split over one CPU
device per thread, because XLA leaves a core idle in small operations.
"""

import argparse
import contextlib
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import _threads

from flaxae.training.hparams import make_hparams
from flaxae.training.layout import make_layout
from flaxae.training.state import abstract_state, make_state

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

# width, heads, dimensions, points, b, T
CASES = {
    "E=32": (32, 2, 3, 8, 20, 5),
    "E=64": (64, 4, 8, 16, 20, 5),
    "E=256": (256, 8, 20, 41, 12, 5),
}
BATCH, LR = 64, 1e-4
PRODUCTS_KEPT = "flaxae, products kept"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["E=64", "E=256"], choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--block", type=int, default=2, help="steps per side and round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-unrolled", action="store_true", help="do not compile unrolled loops")
    return parser.parse_args()


def make_config(case: str, remat: bool, devices: int = 1, keep: str = "nothing") -> Any:
    """Return the config of a case."""
    from flaxae.config import Config, DataConfig, MeshConfig, OptimConfig, Schedule
    from flaxae.models.looped.modeling import ModelConfig
    from flaxae.models.looped.task import LoopedConfig

    width, heads, dims, points, b, t = CASES[case]
    sizes = {"dims": dims, "points": points, "width": width, "num_heads": heads}
    model = ModelConfig(**sizes, remat=remat, remat_keep=keep)
    return Config(
        task=LoopedConfig(model=model, loops=b, grad_loops=t),
        data=DataConfig(batch_size=BATCH),
        optim=OptimConfig(lr=LR, schedule=Schedule.CONSTANT, clip_norm=0.0),
        mesh=MeshConfig(replica=devices, fsdp=1),
    )


class OurStep:
    """The training loop's jitted step, of one run or of several lanes."""

    def __init__(self, config: Any, lanes: int = 0):
        import jax

        from flaxae.machine import sharding
        from flaxae.training import step as train_step

        self.jax, task = jax, config.task.make(config)
        self.mesh = sharding.make_mesh(config.mesh)
        with jax.set_mesh(self.mesh):
            layout = make_layout(task, config)
            abstract = abstract_state(task, config, self.mesh, lanes)
            shardings = jax.tree.map(lambda x: x.sharding, abstract)
            hparams = make_hparams(task, [config] * max(lanes, 1), bool(lanes))
            self.hparams = sharding.put(jax.device_get(hparams), sharding.replicated(self.mesh))
            init = jax.jit(lambda h: make_state(task, config, h, lanes), out_shardings=shardings)
            self.state = init(self.hparams)
            step = train_step.make_train_step(task, config, layout, shardings, lanes)
            began = time.perf_counter()
            self.step = step.lower(self.state, {}, {}, self.hparams).compile()
            self.compile_seconds = time.perf_counter() - began
        self.temporaries = self.step.memory_analysis().temp_size_in_bytes

    def num_parameters(self) -> int:
        """Return the number of trained parameters."""
        return sum(x.size for x in self.jax.tree.leaves(self.state["params"]))

    def __call__(self) -> Any:
        """Make one step and return its loss."""
        self.state, metrics = self.step(self.state, {}, {}, self.hparams)
        return self.jax.device_get(metrics["loss"])


@contextlib.contextmanager
def plain_layers():
    """Replace LayerNorm and GELU by plain ones, whose gradients are autodiff's."""
    from flaxae.models.looped import blocks
    from flaxae.nn import norm

    ours: Any = (norm._layer_norm, blocks.gelu)
    norm._layer_norm, blocks.gelu = (x.fun for x in ours)
    try:
        yield
    finally:
        norm._layer_norm, blocks.gelu = ours


def unrolled(config: Any) -> tuple[float, int]:
    """Return compile seconds and temporary bytes of the gradient with unrolled loops."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from flaxae.models.looped.modeling import LoopedTransformer
    from flaxae.task import Context

    task, ctx = config.task, Context(jax.random.key(0), jnp.int32(0))
    graphdef, params = nnx.split(LoopedTransformer(task.model, rngs=nnx.Rngs(0)))

    def loss(params: Any, xs: Any, ys: Any) -> Any:
        model = nnx.merge(graphdef, params)
        prompt, total = model.prompt(xs, ys, ctx), 0.0
        state = model.initial_state(prompt)
        for index in range(task.loops):
            if index <= task.loops - task.grad_loops:
                state = jax.lax.stop_gradient(state)
            state = model.loop(state, prompt, ctx)
            if index >= task.loops - task.grad_loops:
                total = total + jnp.mean(jnp.square(model.readout(state, ctx) - ys))
        return total / task.grad_loops

    xs = jnp.zeros((BATCH, task.model.points, task.model.dims))
    began = time.perf_counter()
    compiled = jax.jit(jax.grad(loss)).lower(params, xs, xs[..., 0]).compile()
    return time.perf_counter() - began, compiled.memory_analysis().temp_size_in_bytes


class TorchStep:
    """The step of a looped GPT-2 block; `sdpa` chooses torch's fused attention."""

    def __init__(self, case: str, sdpa: bool):
        import torch

        width, heads, dims, points, self.b, self.t = CASES[case]
        self.torch, self.sizes, self.sdpa = torch, (heads, dims, points), sdpa
        torch.manual_seed(0)
        self.make(width, heads, dims, points)

    def make(self, width: int, heads: int, dims: int, points: int) -> None:
        """Make the modules and the optimizer."""
        torch, nn = self.torch, self.torch.nn
        self.parts = nn.ModuleDict(
            {
                "read_in": nn.Linear(dims, width),
                "norm_1": nn.LayerNorm(width),
                "qkv": nn.Linear(width, 3 * width),
                "out": nn.Linear(width, width),
                "norm_2": nn.LayerNorm(width),
                "up": nn.Linear(width, 4 * width),
                "down": nn.Linear(4 * width, width),
                "norm": nn.LayerNorm(width),
                "read_out": nn.Linear(width, 1),
            }
        )
        self.positions = nn.Parameter(0.02 * torch.randn(2 * points, width))
        self.parameters = [*self.parts.parameters(), self.positions]
        self.adam = torch.optim.Adam(self.parameters, lr=LR, fused=True)
        self.bias = torch.full((2 * points, 2 * points), float("-inf")).triu(1)

    def num_parameters(self) -> int:
        """Return the number of trained parameters."""
        return sum(p.numel() for p in self.parameters)

    def loop(self, state: Any, prompt: Any) -> Any:
        """Apply the block once."""
        functional, parts = self.torch.nn.functional, self.parts
        x = state + prompt + self.positions
        rows, length, width = x.shape
        split = parts["qkv"](parts["norm_1"](x)).view(rows, length, 3, self.sizes[0], -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        if self.sdpa:
            heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-1, -2) * k.shape[-1] ** -0.5 + self.bias
            heads = scores.softmax(-1) @ v
        x = x + parts["out"](heads.transpose(1, 2).reshape(rows, length, width))
        hidden = functional.gelu(parts["up"](parts["norm_2"](x)), approximate="tanh")
        return parts["norm"](x + parts["down"](hidden))

    def __call__(self) -> Any:
        """Make one step and return its loss."""
        torch, (_, dims, points) = self.torch, self.sizes
        xs = torch.randn(BATCH, points, dims)
        ys = (xs @ torch.randn(BATCH, dims, 1))[..., 0]
        padded = torch.nn.functional.pad(ys[..., None], (0, dims - 1))
        tokens = torch.stack([xs, padded], 2).view(BATCH, 2 * points, dims)
        prompt = self.parts["read_in"](tokens)
        state = torch.zeros_like(prompt)
        with torch.no_grad():
            for _ in range(self.b - self.t):
                state = self.loop(state, prompt)
        total = 0.0
        for _ in range(self.t):
            state = self.loop(state, prompt)
            answer = self.parts["read_out"](state[:, ::2])[..., 0]
            total = total + (answer - ys).square().mean()
        loss = total / self.t
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.item()


class TransformersStep(TorchStep):
    """The step of a looped GPT2Model of transformers, with torch's default Adam."""

    def make(self, width: int, heads: int, dims: int, points: int) -> None:
        """Make the modules and the optimizer."""
        from transformers import GPT2Config, GPT2Model

        torch, nn = self.torch, self.torch.nn
        sizes = {"n_embd": width, "n_head": heads, "n_positions": 2 * points, "n_layer": 1}
        rates = {f"{name}_pdrop": 0.0 for name in ("resid", "embd", "attn")}
        config = GPT2Config(vocab_size=1, use_cache=False, **sizes, **rates)
        config._attn_implementation = "sdpa" if self.sdpa else "eager"
        self.gpt2 = GPT2Model(config)
        self.gpt2.wte.requires_grad_(False)  # the inputs are embeddings
        self.parts = nn.ModuleDict(
            {"read_in": nn.Linear(dims, width), "gpt2": self.gpt2, "read_out": nn.Linear(width, 1)}
        )
        self.parameters = [p for p in self.parts.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.parameters, lr=LR)

    def loop(self, state: Any, prompt: Any) -> Any:
        """Apply the block once."""
        return self.gpt2(inputs_embeds=state + prompt).last_hidden_state


def interleaved(sides: dict[str, Any], rounds: int, block: int) -> dict[str, list[float]]:
    """Return the seconds per step of each side in each round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, step in sides.items():
            step()  # warms the caches and the thread pool again
            began = time.perf_counter()
            for _ in range(block):
                step()
            if i > 0:
                times[name].append((time.perf_counter() - began) / block)
    return times


def make_sides(case: str, threads: int) -> dict[str, Any]:
    """Return the steps to compare by name; names begin with flaxae, torch or transformers."""
    sides: dict[str, Any] = {
        "flaxae": OurStep(make_config(case, True)),
        "flaxae, nothing recomputed": OurStep(make_config(case, False)),
        PRODUCTS_KEPT: OurStep(make_config(case, True, keep="products")),
    }
    if threads > 1 and BATCH % threads == 0:
        split = f"flaxae, {threads} devices"
        sides[split] = OurStep(make_config(case, True, threads))
        config = make_config(case, True, threads, keep="products")
        sides[f"{split}, products kept"] = OurStep(config)
    for name, sdpa in [("sdpa", True), ("eager", False)]:
        sides[f"torch, {name}"] = TorchStep(case, sdpa)
        sides[f"transformers, {name}"] = TransformersStep(case, sdpa)
    sizes = {step.num_parameters() for step in sides.values()}
    assert len(sizes) == 1, f"the sides differ in size: {sizes}"
    return sides


def compare_unrolled(case: str, ours: Any, keeping: Any) -> dict[str, Any]:
    """Compile the unrolled gradient; compare its temporaries and compile time with ours."""
    with plain_layers():
        seconds, plain = unrolled(make_config(case, True))
    same = unrolled(make_config(case, True))[1]
    out = {
        "unrolled_compile_seconds": round(seconds, 2),
        "unrolled_temporary_bytes": plain,
        "memory_ratio": round(plain / ours.temporaries, 2),
        "unrolled_our_layers_temporary_bytes": same,
        "our_layers_memory_ratio": round(same / ours.temporaries, 2),
    }
    print(
        f"temporaries {ours.temporaries / 2**20:.1f} MiB, products kept "
        f"{keeping.temporaries / 2**20:.1f} MiB, unrolled {plain / 2**20:.1f} MiB "
        f"({out['memory_ratio']} x), unrolled with our LayerNorm and GELU "
        f"{same / 2**20:.1f} MiB ({out['our_layers_memory_ratio']} x)"
    )
    print(f"compiled in {ours.compile_seconds:.1f} s, unrolled (gradient alone) {seconds:.1f} s")
    return out


def run_case(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a case, print its times and return its entry for the JSON line."""
    _, heads, _, points, b, t = CASES[case]
    print(f"\n{case}: {heads} heads, {BATCH} x {2 * points} tokens, b={b}, T={t}", flush=True)
    sides = make_sides(case, args.threads)
    ours, keeping = sides["flaxae"], sides[PRODUCTS_KEPT]
    times = interleaved(sides, args.rounds, args.block)
    ms = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    for name, value in ms.items():
        print(f"{name:30}{value:9.1f} ms per step (best {min(times[name]) * 1e3:.1f})")
    theirs = min(v for k, v in ms.items() if k.startswith("torch"))
    model = min(v for k, v in ms.items() if k.startswith("transformers"))
    mine = min(v for k, v in ms.items() if k.startswith("flaxae"))
    best = min(min(v) for k, v in times.items() if k.startswith("torch"))
    out = {
        "name": f"looped step, {case}",
        "ours": ms["flaxae"] / 1e3,
        "theirs": theirs / 1e3,
        "unit": "s/step",
        "ratio": round(theirs / ms["flaxae"], 3),
        "transformers": model / 1e3,
        "transformers_ratio": round(model / ms["flaxae"], 3),
        "fastest": mine / 1e3,
        "fastest_ratio": round(theirs / mine, 3),
        "fastest_transformers_ratio": round(model / mine, 3),
        "best_ratio": round(best / min(times["flaxae"]), 4) if best else None,
        "no_recompute_ratio": round(theirs / ms["flaxae, nothing recomputed"], 3),
        "compile_seconds": round(ours.compile_seconds, 2),
        "temporary_bytes": ours.temporaries,
        "temporary_bytes_products_kept": keeping.temporaries,
    }
    split = f"flaxae, {args.threads} devices"
    if split in ms:
        out |= {"split": ms[split] / 1e3, "split_ratio": round(theirs / ms[split], 3)}
        print(f"torch / flaxae split over devices {out['split_ratio']:.2f}")
    if not args.no_unrolled:
        out |= compare_unrolled(case, ours, keeping)
    print(
        f"torch / flaxae {out['ratio']:.2f}, transformers / flaxae "
        f"{out['transformers_ratio']:.2f}; relative to our fastest {out['fastest_ratio']:.2f}, "
        f"{out['fastest_transformers_ratio']:.2f}",
        flush=True,
    )
    return out


def main() -> None:
    """Measure all cases and print the JSON line."""
    args = _arguments()
    _threads.pin(args.threads)
    try:
        import torch
    except ImportError:
        sys.exit("this benchmark needs torch: make env-parity")
    torch.set_num_threads(args.threads)
    import jax

    jax.config.update("jax_num_cpu_devices", args.threads)
    cases = [run_case(case, args) for case in args.cases]
    print(
        json.dumps(
            {
                "name": "looped_step",
                "cases": cases,
                "threads": args.threads,
                "torch": torch.__version__,
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
