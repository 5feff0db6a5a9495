"""Adapters of SmolLM2-135M beside PyTorch with HF peft (needs `make env-parity`).

Three cases: `train` (a LoRA on docstrings, completion-only loss), `collect` (hidden states of all
layers at the last token, of base and adapter), `generate` (greedy, one prompt, with the adapter).
Same rows, weights, adapter, float32 and threads; each side batches as is best for it: ours packs
(train) or puts base and adapter rows into one batch (collect), theirs sorts by length and pads,
with the best of `--batches`. Sides take turns in one process; medians over the rounds.
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
from pathlib import Path
from typing import Any

import _threads

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
CASES = ("train", "collect", "generate")


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
        from flaxae.data.packing import pack
        from flaxae.models.causal_lm import data as data_lib

        self.args = args
        opened = lm.load(args.model)
        self.lm, self.config = opened, opened.config
        pairs = data_lib.read(data_lib.DataConfig(name="signatures")).splits["train"]
        examples = data_lib.encoded(pairs[: 2 * args.examples], opened.tokenizer,
                                    self.config.eos_ids[0])  # fmt: skip
        fits = [e for e in examples if len(e.prompt) + len(e.completion) <= args.length]
        self.examples = sorted(fits[: args.examples], key=lambda e: len(e.prompt + e.completion))
        adapter = peft.LoRAConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        self.model = _moved(peft.add_adapter(opened.model, adapter))
        self.packed = pack(self.examples, args.length).arrays
        graphdef, self.params, self.frozen = nnx.split(self.model, peft.trainable(), ...)
        self.start = self.params
        self.tx = optax.adamw(1e-3, weight_decay=0.0)
        self.opt = self.tx.init(self.params)
        self.merge = lambda params, frozen: nnx.merge(graphdef, params, frozen)
        self._step = jax.jit(self._train_step)
        self._states = jax.jit(self._collect_states)
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

    def train(self) -> list[float]:
        """One pass over the examples; the summed losses of the batches."""
        import numpy as np

        rows, out, params, opt = self.args.rows, [], self.params, self.opt
        for start in range(0, len(self.packed["ids"]), rows):
            batch = {k: v[start : start + rows] for k, v in self.packed.items()}
            short = rows - len(batch["ids"])
            batch = {k: np.pad(v, ((0, short), (0, 0))) for k, v in batch.items()}
            params, opt, total = self._step(params, opt, self.frozen, batch)
            out.append(total)
        self.params, self.opt = params, opt
        return [float(x) for x in out]

    def _collect_states(self, params: Any, frozen: Any, ids: Any, mask: Any, scale: Any) -> Any:
        import jax
        import jax.numpy as jnp

        from flaxae.lm import activations
        from flaxae.task import Context

        ctx = Context(jax.random.key(0), jnp.int32(0), adapter_scale={"default": scale})
        _, states = activations.collect(
            self.merge(params, frozen), ids, ctx, hooks=["resid_out"], mask=mask,
            layers=range(self.config.num_layers - 1),
            positions=activations.last_positions(mask),
        )  # fmt: skip
        return states["resid_out"][:, :, 0]  # (L, B, D)

    def collect(self, params: Any) -> Any:
        """(2, examples, layers, width): base and adapter rows in one batch, by length."""
        import numpy as np

        size, sides = self.args.batches[0], []
        for start in range(0, len(self.examples), size):
            part = self.examples[start : start + size]
            width = max(len(e.prompt + e.completion) for e in part)
            width = -(-width // 32) * 32
            ids = np.zeros((2 * size, width), np.int32)
            for row, e in enumerate(part):
                text = [*e.prompt, *e.completion]
                ids[[row, size + row], : len(text)] = text
            mask = (np.arange(width)[None] < [[len(e.prompt + e.completion)] for e in part]) * 1.0
            mask = np.pad(mask, ((0, size - len(part)), (0, 0)), constant_values=1)
            mask = np.tile(mask, (2, 1)).astype(np.float32)
            scale = np.repeat(np.float32([0, 1]), size)
            out = np.asarray(self._states(params, self.frozen, ids, mask, scale))
            sides.append(np.stack([out[:, : len(part)], out[:, size : size + len(part)]]))
        return np.concatenate(sides, axis=2).swapaxes(1, 2)

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
    out = []
    for case in args.cases:
        if case == "train":
            a, b = ours.train()[0], torch_sides[args.batches[0]].train(ours.examples)[0]
            assert np.isfinite([a, b]).all()
            sides = {"ours": ours.train}
            sides |= {f"torch {n}": (lambda s=s: s.train(ours.examples)) for n, s in
                      torch_sides.items()}  # fmt: skip
            amount, unit = len(ours.examples), "examples/s"
        elif case == "collect":
            fresh = {n: TorchSide(str(folder / "base"), str(folder / "adapter"), n)
                     for n in args.batches}  # fmt: skip
            a, b = ours.collect(ours.start), fresh[args.batches[0]].collect(ours.examples)
            gap = np.abs(a - b).max() / np.abs(b).max()
            assert gap < 1e-3 and np.abs(a[0] - a[1]).max() > 1e-2, f"states differ: {gap}"
            sides = {"ours": lambda: ours.collect(ours.start)}
            sides |= {f"torch {n}": (lambda s=s: s.collect(ours.examples)) for n, s in
                      fresh.items()}  # fmt: skip
            amount, unit = len(ours.examples), "examples/s"
        else:
            prompt = ours.examples[0].prompt
            side = TorchSide(str(folder / "base"), str(folder / "adapter"), 1)
            a, b = ours.generate(prompt, args.tokens), side.generate(prompt, args.tokens)
            same = sum(x == y for x, y in zip(a, b, strict=True))
            print(f"generate: {same} of {args.tokens} greedy tokens are the same")
            sides = {"ours": lambda p=prompt: ours.generate(p, args.tokens)}
            sides |= {"torch": lambda s=side, p=prompt: s.generate(p, args.tokens)}
            amount, unit = args.tokens, "tokens/s"
        times = alternate(sides, args.rounds)
        best = min((n for n in times if n != "ours"), key=lambda n: times[n])
        mine, theirs = amount / times["ours"], amount / times[best]
        print(f"{case:10}flaxae {mine:8.2f} {unit}, {best:9} {theirs:8.2f}, ratio "
              f"{mine / theirs:.2f}", flush=True)  # fmt: skip
        out.append({"name": case, "ours": mine, "theirs": theirs, "unit": unit,
                    "ratio": round(mine / theirs, 3), "torch": best})  # fmt: skip
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
