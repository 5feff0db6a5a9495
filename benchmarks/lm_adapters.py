"""Adapters of SmolLM2-135M compared with PyTorch and HF peft (needs `make env-parity`).

There are five cases:

- `train`: LoRA on docstrings with a loss of completions only.
- `collect`: hidden states of base and adapter at the last token, of all layers but the last, whose
  states torch returns only after the final norm.
- `collect_prefix`: the same, but torch's side, too, reads the common beginning of all prompts (the
  chat's system message and the question) only once.
- `generate`: greedy decoding of one prompt with the adapter.
- `probe_fit`: logistic regressions of six layers and four penalties, as one program on our side and
  one after the other by scikit-learn; on drawn states of the model's width, without torch.

Both sides use the same rows, weights, adapter, float32 and threads, and sort by length; each side
uses its best batches. Ours packs examples (train) or uses `activations.collect.Collector`
(collect): base and adapter rows in one batch, up to four lengths, and no layer after the last
collected one.
By default, and in `smollm2_lora.py`, it reads the common beginning of prompts once per row or
collection; it is also measured with whole prompts. Torch's side pads to the longest row, runs base
and adapter one after the other, and computes scores only for the last position. The number of
examples per batch is the best of `--batches`, for our side in collecting only. In training, a step
takes `--rows` packed rows on our side and one batch of examples on torch's. States must agree
within 1e-3 of the largest. The sides alternate in one process after a warm-up round; times are
medians over the rounds.
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
from typing import Any, NamedTuple

import _threads

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
CASES = ("train", "collect", "collect_prefix", "generate", "probe_fit")
WHOLE_PROMPTS = "ours, whole prompts"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--length", type=int, default=256, help="tokens per packed row")
    parser.add_argument("--rows", type=int, default=4, help="packed rows per batch")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


class Ours:
    """Our side: model, adapter, and their training, collection and generation."""

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
        examples = data_lib.encoded(
            pairs[: 2 * args.examples], opened.tokenizer, self.config.eos_ids
        )
        fits = [e for e in examples if len(e.prompt) + len(e.completion) <= args.length]
        self.examples = sorted(fits[: args.examples], key=lambda e: len(e.prompt + e.completion))
        adapter = peft.LoRAConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        self.model = _randomized(peft.add_adapter(opened.model, adapter))
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
        """Train one pass over the examples, with `shared` tokens at each row's start.

        Returns:
            The summed loss of each batch.
        """
        import numpy as np

        rows, out, params, opt = self.args.rows, [], self.params, self.opt
        packed = self.packed[shared]
        for start in range(0, len(packed["ids"]), rows):
            batch = {k: v[start : start + rows] for k, v in packed.items()}
            missing = rows - len(batch["ids"])
            batch = {k: np.pad(v, ((0, missing), (0, 0))) for k, v in batch.items()}
            params, opt, total = self._step(params, opt, self.frozen, batch)
            out.append(total)
        self.params, self.opt = params, opt
        return [float(x) for x in out]

    def collect(self, rows: int, share_prefix: bool) -> Any:
        """Collect the last token's states, (base and adapter, examples, layers, width)."""
        from flaxae.activations.collect import Collector

        key = (rows, share_prefix)
        if key not in self._collectors:
            self._collectors[key] = Collector(
                self.merge(self.start, self.frozen),
                ["resid_out"],
                range(self.config.num_layers - 1),
                sides=({}, {"default": 1.0}),
                rows=rows,
                share_prefix=share_prefix,
            )
        texts = [[*e.prompt, *e.completion] for e in self.examples]
        return self._collectors[key](texts)["resid_out"]

    def generate(self, prompt: list[int], tokens: int) -> list[int]:
        """Return greedy tokens after a prompt, regardless of an end of text."""
        import dataclasses

        import jax
        import jax.numpy as jnp
        import numpy as np

        from flaxae.lm import generation
        from flaxae.task import Context

        if self._generate is None:  # without an end: as many tokens as torch's side
            endless = dataclasses.replace(self.config, eos_ids=(self.config.vocab_size,))

            def complete(params: Any, frozen: Any, ids: Any, mask: Any) -> Any:
                model = self.merge(params, frozen)
                model.config = endless
                ctx = Context(jax.random.key(0), jnp.int32(0))
                return generation.generate(model, ids, mask, ctx, tokens, unroll=True)

            self._generate = jax.jit(complete)
        ids = np.asarray([prompt], np.int32)
        mask = np.ones(ids.shape, "f")
        return np.asarray(self._generate(self.start, self.frozen, ids, mask))[0].tolist()


def _randomized(model: Any) -> Any:
    """Return the model with a random adapter, so that B is not 0, as after training."""
    import jax
    from flax import nnx

    from flaxae import peft

    graphdef, mine, rest = nnx.split(model, peft.trainable(), ...)
    leaves, tree = jax.tree.flatten(mine)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    leaves = [x + 0.02 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, leaves), rest)


def alternate(sides: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Return the median seconds of each side; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            if i:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def llama_cpp(args: Any, prompt: str) -> None:
    """Print the speed of llama.cpp for information, if it is installed.

    It reads the package's file with 4 bits per weight, and without an adapter.
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
        f"llama.cpp, the base in 4 bits: {statistics.median(rates[1:]):.1f} tokens/s, {made} tokens"
    )


class Sides(NamedTuple):
    """The functions to time in one case.

    Attributes:
        run: functions by name; names begin with "ours" or "torch".
        amount: number of units that each function processes.
        unit: unit of the rate.
    """

    run: dict[str, Callable]
    amount: int
    unit: str


def train_sides(ours: Ours, torch_sides: dict[int, Any]) -> Sides:
    """Return the functions that train one pass over the examples."""
    import numpy as np

    shared = max(ours.packed)
    first = next(iter(torch_sides.values()))
    losses = ours.train(shared)[0], first.train(ours.examples)[0]
    assert np.isfinite(losses).all()
    run: dict[str, Callable] = {"ours": partial(ours.train, shared)}
    run |= {WHOLE_PROMPTS: partial(ours.train, 0)}
    run |= {f"torch {n}": partial(side.train, ours.examples) for n, side in torch_sides.items()}
    return Sides(run, len(ours.examples), "examples/s")


def collect_sides(ours: Ours, torch_sides: dict[int, Any], share_prefix: bool) -> Sides:
    """Return the functions that collect states, after checking that the states agree.

    Args:
        ours: our side.
        torch_sides: torch's sides by their number of rows, with the adapter as saved.
        share_prefix: whether torch's side, too, reads the common prefix only once.
    """
    import numpy as np

    rows = next(iter(torch_sides))
    a = ours.collect(rows, True)
    b = torch_sides[rows].collect(ours.examples, share_prefix)
    gap, effect = (np.abs(x).max() / np.abs(b).max() for x in (a - b, a[0] - a[1]))
    assert gap < 1e-3, f"states differ: {gap}"
    assert effect > 10 * gap, f"base and adapter do not differ: {effect}"
    run: dict[str, Callable] = {f"ours {n}": partial(ours.collect, n, True) for n in torch_sides}
    if not share_prefix:
        run |= {f"{WHOLE_PROMPTS} {n}": partial(ours.collect, n, False) for n in torch_sides}
    run |= {
        f"torch {n}": partial(side.collect, ours.examples, share_prefix)
        for n, side in torch_sides.items()
    }
    return Sides(run, len(ours.examples), "examples/s")


def generate_sides(ours: Ours, side: Any, tokens: int) -> Sides:
    """Return the functions that continue one prompt, after checking that the tokens agree."""
    prompt = ours.examples[0].prompt
    a, b = ours.generate(prompt, tokens), side.generate(prompt, tokens)
    # Both continue after an end of text, but torch's side never writes it: compare up to there.
    until = next((i for i, x in enumerate(a) if x in ours.config.eos_ids), len(a))
    assert a[:until] == b[:until], f"the texts differ: {a}, {b}"
    print(f"generate: the same {until} greedy tokens up to the end, of {tokens}")
    run: dict[str, Callable] = {"ours": partial(ours.generate, prompt, tokens)}
    run |= {"torch": partial(side.generate, prompt, tokens)}
    return Sides(run, tokens, "tokens/s")


def probe_fit_sides(rows: int = 600, layers: int = 6, width: int = 576) -> Sides:
    """Return the functions that fit all regressions, after checking that they agree.

    Args:
        rows: training examples.
        layers: number of layers.
        width: of a state.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from flaxae.models.probes.fitting.base import Scaler
    from flaxae.models.probes.fitting.linear import STRENGTHS, fit_layers

    rng = np.random.default_rng(0)
    labels = rng.random(rows) < 0.5
    x = rng.normal(size=(layers, rows, width)).astype(np.float32)
    x[:, :, :3] += 0.7 * labels[:, None]

    def theirs() -> list[Any]:
        """Fit one regression after the other."""
        scaled = [Scaler.fit(layer)(layer) for layer in x]
        return [
            [LogisticRegression(C=1 / s, max_iter=1000).fit(layer, labels) for s in STRENGTHS]
            for layer in scaled
        ]

    for ours, other in zip(fit_layers(x, labels), theirs(), strict=True):
        for a, b in zip(ours, other, strict=True):
            gap = np.abs(a.weight - b.coef_[0]).max() / np.abs(b.coef_).max()
            assert gap < 0.05, f"regressions differ: {gap}"
    run: dict[str, Callable] = {"ours": partial(fit_layers, x, labels), "sklearn": theirs}
    return Sides(run, layers * len(STRENGTHS), "fits/s")


def result(case: str, sides: Sides, times: dict[str, float]) -> dict[str, Any]:
    """Print a case's rates and return its entry for the JSON line."""
    mine = sides.amount / min(t for n, t in times.items() if n.startswith("ours"))
    best = min((n for n in times if not n.startswith("ours")), key=lambda n: times[n])
    theirs = sides.amount / times[best]
    found = {"name": case, "ours": mine, "theirs": theirs, "unit": sides.unit}
    found |= {"ratio": round(mine / theirs, 3), "other": best}
    print(
        f"{case:16}flaxae {mine:8.2f} {sides.unit}, {best:9} {theirs:8.2f}, ratio "
        f"{mine / theirs:.2f}",
        flush=True,
    )
    if repeated := [t for n, t in times.items() if n.startswith(WHOLE_PROMPTS)]:
        whole = sides.amount / min(repeated)
        found["whole_prompts_ratio"] = round(whole / theirs, 3)
        print(f"{'':16}with whole prompts {whole:8.2f}, ratio {whole / theirs:.2f}", flush=True)
    return found


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure all cases; `folder` is for the base model and the adapter."""
    fits = []
    if "probe_fit" in args.cases:
        sides = probe_fit_sides()
        fits.append(result("probe_fit", sides, alternate(sides.run, args.rounds)))
    return fits if args.cases == ["probe_fit"] else [*_against_torch(args, folder), *fits]


def _against_torch(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    from torch_lm_adapters import TorchSide

    from flaxae import peft

    ours = Ours(args)
    ours.lm.save(folder / "base")
    peft.save_adapter(ours.model, folder / "adapter")
    paths = str(folder / "base"), str(folder / "adapter")
    trained = {rows: TorchSide(*paths, rows) for rows in args.batches}
    out = []
    for case in (case for case in args.cases if case != "probe_fit"):
        if case == "train":
            sides = train_sides(ours, trained)
        elif case.startswith("collect"):
            unchanged = {rows: TorchSide(*paths, rows) for rows in args.batches}
            sides = collect_sides(ours, unchanged, share_prefix=case == "collect_prefix")
        else:
            sides = generate_sides(ours, TorchSide(*paths, 1), args.tokens)
            prompt = ours.examples[0].prompt
            llama_cpp(args, ours.lm.tokenizer.decode(prompt, special=True))
        out.append(result(case, sides, alternate(sides.run, args.rounds)))
    return out


def main() -> None:
    """Measure all cases and print the JSON line."""
    args = _arguments()
    _threads.pin(args.threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if args.cases != ["probe_fit"]:
        import torch

        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        cases = measure(args, Path(folder))
    machine = {"cpu": platform.processor() or platform.machine(), "threads": args.threads}
    print(
        json.dumps(
            {
                "name": "lm_adapters",
                "machine": machine,
                "model": args.model,
                "examples": args.examples,
                "cases": cases,
            }
        )
    )


if __name__ == "__main__":
    main()
