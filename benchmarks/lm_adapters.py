"""Adapters of SmolLM2-135M beside PyTorch with HF peft (needs `make env-parity`).

Four cases: `train` (a LoRA on docstrings, completion-only loss), `collect` (hidden states of base
and adapter at the last token, all layers but the last, whose states torch gives after the final
norm only), `collect_prefix` (the same, where theirs too reads once what all prompts begin with, the
chat's system message and the question), `generate` (greedy, one prompt, with the adapter).
Same rows, weights, adapter, float32 and threads; each side batches as is best for it. Both sort by
length. Ours packs (train), or is `activations.collect.Collector` (collect): base and adapter rows
in one batch, at most four lengths, no layer after the last that is wanted. As in `smollm2_lora.py`
and by default it reads what all prompts begin with once (a row, a collection), and beside it whole
prompts. Theirs pads to the longest row, runs base and adapter in turn and makes no scores but the
last position's. Examples a batch are the best of `--batches` for theirs, and for ours where it
collects. In training `--rows` packed rows make a step here, and a batch of examples there. States
must agree within 1e-3 of the largest. Sides take turns in one process, after a round that warms up
and compiles; medians over the rounds.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import _threads

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
CASES = ("train", "collect", "collect_prefix", "generate")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--length", type=int, default=256, help="of packed rows")
    parser.add_argument("--rows", type=int, default=4, help="packed rows a batch")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


class Ours:
    """The same model and adapter here."""

    def __init__(self, args: Any):
        import jax
        import optax
        from flax import nnx

        from flaxae import lm, peft
        from flaxae.activations.collect import shared_prefix
        from flaxae.data.config import TextDataConfig
        from flaxae.data.packing import pack
        from flaxae.models.causal_lm import data as data_lib

        self.args = args
        opened = lm.load(args.model)
        self.lm, self.config = opened, opened.config
        pairs = data_lib.read(TextDataConfig(name="signatures")).splits["train"]
        examples = data_lib.encoded(pairs[: 2 * args.examples], opened.tokenizer,
                                    self.config.eos_ids[0])  # fmt: skip
        fits = [e for e in examples if len(e.prompt) + len(e.completion) <= args.length]
        self.examples = sorted(fits[: args.examples], key=lambda e: len(e.prompt + e.completion))
        adapter = peft.LoRAConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        self.model = _moved(peft.add_adapter(opened.model, adapter))
        shared = shared_prefix([e.prompt for e in self.examples])
        self.packed = {n: pack(self.examples, args.length, shared=n).arrays for n in (shared, 0)}
        graphdef, self.params, self.frozen = nnx.split(self.model, peft.trainable(), ...)
        self.start = self.params
        self.tx = optax.adamw(1e-3, weight_decay=0.0)
        self.opt = self.tx.init(self.params)
        self.merge = lambda params, frozen: nnx.merge(graphdef, params, frozen)
        self._step = jax.jit(self._train_step)
        self._collectors: dict[tuple, Any] = {}
        self._generate = None

    def _train_step(self, params: Any, opt: Any, frozen: Any, batch: Any) -> Any:
        import jax
        import jax.numpy as jnp
        import optax

        from flaxae.task import Context

        def loss_of(params: Any) -> Any:
            model = self.merge(params, frozen)
            ctx = Context(jax.random.key(0), jnp.int32(0), train=True)
            states = model.states(
                batch["ids"], ctx, segment_ids=batch["segment_ids"], positions=batch["positions"]
            )
            x = jnp.take_along_axis(states, batch["where"][:, :, None], axis=1)
            total, _ = model.loss(x, batch["targets"], batch["target_weight"], ctx)
            return total / jnp.maximum(batch["target_weight"].sum(), 1), total

        (_, total), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt = self.tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, total

    def train(self, shared: int) -> list[float]:
        """One pass over the examples, packed with so much at a row's start; the batches' losses."""
        import numpy as np

        rows, out, params, opt = self.args.rows, [], self.params, self.opt
        packed = self.packed[shared]
        for start in range(0, len(packed["ids"]), rows):
            batch = {k: v[start : start + rows] for k, v in packed.items()}
            short = rows - len(batch["ids"])
            batch = {k: np.pad(v, ((0, short), (0, 0))) for k, v in batch.items()}
            params, opt, total = self._step(params, opt, self.frozen, batch)
            out.append(total)
        self.params, self.opt = params, opt
        return [float(x) for x in out]

    def collect(self, rows: int, share_prefix: bool) -> Any:
        """(2, examples, layers, width): base and adapter, of the last token, sorted by length."""
        from flaxae.activations.collect import Collector

        key = (rows, share_prefix)
        if key not in self._collectors:
            self._collectors[key] = Collector(
                self.merge(self.start, self.frozen), ["resid_out"],
                range(self.config.num_layers - 1), sides=({}, {"default": 1.0}),
                rows=rows, share_prefix=share_prefix,
            )  # fmt: skip
        texts = [[*e.prompt, *e.completion] for e in self.examples]
        return self._collectors[key](texts)["resid_out"]

    def generate(self, prompt: list[int], tokens: int) -> list[int]:
        import dataclasses

        import jax
        import jax.numpy as jnp
        import numpy as np

        from flaxae.lm import generation
        from flaxae.task import Context

        if self._generate is None:  # no end: as many tokens as theirs
            never = dataclasses.replace(self.config, eos_ids=(self.config.vocab_size,))

            def go_on(params: Any, frozen: Any, ids: Any, mask: Any) -> Any:
                model = self.merge(params, frozen)
                model.config = never
                ctx = Context(jax.random.key(0), jnp.int32(0))
                return generation.generate(model, ids, mask, ctx, tokens, unroll=True)

            self._generate = jax.jit(go_on)
        ids = np.asarray([prompt], np.int32)
        return np.asarray(self._generate(self.start, self.frozen, ids, np.ones(ids.shape, "f")))[
            0
        ].tolist()


def _moved(model: Any) -> Any:
    """An adapter as after training: B is not 0."""
    import jax
    from flax import nnx

    from flaxae import peft

    graphdef, mine, rest = nnx.split(model, peft.trainable(), ...)
    leaves, tree = jax.tree.flatten(mine)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    leaves = [x + 0.02 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, leaves), rest)


def alternate(sides: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each side; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            if i:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def llama_cpp(args: Any, prompt: str) -> None:
    """Prints, for information, how fast llama.cpp goes on from the prompt, where it is installed.

    It reads the package's file as it is, 4 bits a weight, and has no adapter.
    """
    try:
        from cyllama import LLM, GenerationConfig
    except ImportError:
        print("llama.cpp: not installed (pip install cyllama)")
        return
    from flaxae.lm.loading import smollm2_file

    options = {"temperature": 0.0, "n_gpu_layers": 0, "n_ctx": 1024, "add_bos": False}
    llm = LLM(str(smollm2_file()), GenerationConfig(max_tokens=args.tokens, **options))
    rates = []
    for _ in range(args.rounds + 1):
        began = time.perf_counter()
        made = llm(prompt).stats.generated_tokens
        rates.append(made / (time.perf_counter() - began))
    print(
        f"llama.cpp, the base in 4 bits: {statistics.median(rates[1:]):.1f} tokens/s, {made} made"
    )


def measure(args: Any, folder: Path) -> list[dict[str, Any]]:
    import numpy as np
    from torch_lm_adapters import TorchSide

    from flaxae import peft

    ours = Ours(args)
    ours.lm.save(folder / "base")
    peft.save_adapter(ours.model, folder / "adapter")
    torch_sides = {
        rows: TorchSide(str(folder / "base"), str(folder / "adapter"), rows)
        for rows in args.batches
    }
    out, whole = [], "ours, whole prompts"
    for case in args.cases:
        if case == "train":
            shared = max(ours.packed)
            a, b = ours.train(shared)[0], torch_sides[args.batches[0]].train(ours.examples)[0]
            assert np.isfinite([a, b]).all()
            sides = {"ours": partial(ours.train, shared), whole: partial(ours.train, 0)}
            sides |= {f"torch {n}": (lambda s=s: s.train(ours.examples)) for n, s in
                      torch_sides.items()}  # fmt: skip
            amount, unit = len(ours.examples), "examples/s"
        elif case.startswith("collect"):
            share = case == "collect_prefix"
            fresh = {n: TorchSide(str(folder / "base"), str(folder / "adapter"), n)
                     for n in args.batches}  # fmt: skip
            a = ours.collect(args.batches[0], True)
            b = fresh[args.batches[0]].collect(ours.examples, share)
            gap, moved = (np.abs(x).max() / np.abs(b).max() for x in (a - b, a[0] - a[1]))
            assert gap < 1e-3, f"states differ: {gap}"
            assert moved > 10 * gap, f"base and adapter do not differ: {moved}"
            sides = {f"ours {n}": (lambda n=n: ours.collect(n, True)) for n in args.batches}
            if not share:
                sides |= {f"{whole} {n}": (lambda n=n: ours.collect(n, False))
                          for n in args.batches}  # fmt: skip
            sides |= {f"torch {n}": (lambda s=s, x=share: s.collect(ours.examples, x))
                      for n, s in fresh.items()}  # fmt: skip
            amount, unit = len(ours.examples), "examples/s"
        else:
            prompt = ours.examples[0].prompt
            side = TorchSide(str(folder / "base"), str(folder / "adapter"), 1)
            a, b = ours.generate(prompt, args.tokens), side.generate(prompt, args.tokens)
            # After an end both go on, theirs without it: only what stands before can be the same.
            until = next((i for i, x in enumerate(a) if x in ours.config.eos_ids), len(a))
            assert a[:until] == b[:until], f"the texts differ: {a}, {b}"
            print(f"generate: the same {until} greedy tokens up to the end, of {args.tokens}")
            sides = {"ours": lambda p=prompt: ours.generate(p, args.tokens)}
            sides |= {"torch": lambda s=side, p=prompt: s.generate(p, args.tokens)}
            amount, unit = args.tokens, "tokens/s"
            llama_cpp(args, ours.lm.tokenizer.decode(prompt, special=True))
        times = alternate(sides, args.rounds)
        mine = amount / min(t for n, t in times.items() if n.startswith("ours"))
        best = min((n for n in times if n.startswith("torch")), key=lambda n: times[n])
        theirs = amount / times[best]
        print(f"{case:16}flaxae {mine:8.2f} {unit}, {best:9} {theirs:8.2f}, ratio "
              f"{mine / theirs:.2f}", flush=True)  # fmt: skip
        out.append({"name": case, "ours": mine, "theirs": theirs, "unit": unit,
                    "ratio": round(mine / theirs, 3), "torch": best})  # fmt: skip
        if repeated := [t for n, t in times.items() if n.startswith(whole)]:
            out[-1]["whole_prompts_ratio"] = round(amount / min(repeated) / theirs, 3)
            print(f"{'':16}with whole prompts {amount / min(repeated):8.2f}, ratio "
                  f"{out[-1]['whole_prompts_ratio']:.2f}", flush=True)  # fmt: skip
    return out


def main() -> None:
    args = arguments()
    _threads.pin(args.threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        cases = measure(args, Path(folder))
    machine = {"cpu": platform.processor() or platform.machine(), "threads": args.threads}
    print(json.dumps({"name": "lm_adapters", "machine": machine, "model": args.model,
                      "examples": args.examples, "cases": cases}))  # fmt: skip


if __name__ == "__main__":
    main()
