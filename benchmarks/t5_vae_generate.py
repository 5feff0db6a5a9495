"""Encoding and greedy decoding compared with Hugging Face's `generate` (`make env-parity`).

Both sides use the same sizes, weights, texts (lines of Python's standard library), float32 and
threads, and must return the same ids. There are two cases: all texts are decoded to 32 tokens
(random weights for which EOS is never the best id), and texts end with EOS (`--run`, a trained
workdir). The sides alternate in one process; times are medians over the rounds, from ids to ids,
without tokenization.
"""

import argparse
import json
import platform
import runpy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _threads

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", default=str(ROOT / "runs/demo"), help="a trained workdir")
    return parser.parse_args()


def endless_model(config: Any) -> tuple[Any, Any]:
    """Return a random model that never ends a text, and the tokenizer of the lines."""
    import jax.numpy as jnp
    from flax import nnx

    from flaxae.data import embedded
    from flaxae.data.tokenizer import load_or_train
    from flaxae.lm.t5.modeling import EOS, PAD

    model = config.task.make(config).init(nnx.Rngs(0))
    lines = embedded.corpus("python_lines", 40_000).examples
    tokenizer = load_or_train(lines, config.data.vocab_size, config.data.cache)
    table = model.t5.embedding.table
    # The head is tied, so the score of these ids is 0, below the best score.
    table[...] = table[...].at[jnp.asarray([PAD, EOS])].set(0.0)
    return model, tokenizer


def measure(name: str, model: Any, tokenizer: Any, step: int, config: Any, args: Any) -> dict:
    """Measure a case, print its times and return its entry for the JSON line."""
    import numpy as np
    from torch_t5_vae_generate import TorchGenerate

    from flaxae.data import embedded
    from flaxae.lm.t5.modeling import EOS
    from flaxae.text_autoencoder.codec import Codec

    codec = Codec(model, tokenizer, step)
    lines = embedded.corpus("python_lines", 200 * args.texts).examples[:: 200 // 2]
    fits = [x for x in lines if len(tokenizer.encode([x])[0]) < codec.max_length]
    ids = codec.ids(fits[: args.texts])
    ids = ids[:, : (ids != 0).sum(1).max()]
    t5 = config.task.make(config).t5
    eos = None if name == "forced" else EOS
    sides: dict[str, tuple[Callable, Callable]] = {
        "ours": (codec.encode_ids, lambda z: codec.generate(z * np.float32(codec.scale)))
    }
    for attention in ("eager", "sdpa"):
        torch_side: Any = TorchGenerate(model, t5, attention)
        sides[attention] = (
            torch_side.encode,
            lambda z, side=torch_side: side.generate(z * np.float32(codec.scale), eos),
        )
    began = time.perf_counter()
    made = sides["ours"][1](sides["ours"][0](ids))
    first = time.perf_counter() - began
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for i in range(args.rounds + 1):
        for side, (encode, generate) in sides.items():
            began = time.perf_counter()
            z = encode(ids)
            middle = time.perf_counter()
            out = generate(z)
            if i > 0:
                times[side].append((middle - began, time.perf_counter() - middle))
            same = float((out == made).all(1).mean())
            assert same > 0.98, f"{side}: only {same:.3f} of the texts have the same ids"
    parts = {s: [statistics.median(x) for x in zip(*t, strict=True)] for s, t in times.items()}
    total = {s: statistics.median([sum(x) for x in t]) for s, t in times.items()}
    theirs = min(("eager", "sdpa"), key=lambda s: total[s])
    tokens = int((made != 0).sum())
    print(f"\n{name}: {len(ids)} texts, {tokens} tokens; compilation took {first:.1f} s")
    print(f"{'':24}{'encode ms':>10}{'decode ms':>10}{'both ms':>10}{'best ms':>10}")
    for side, label in (("ours", "flaxae"), (theirs, f"HF generate ({theirs})")):
        best = min(sum(x) for x in times[side])
        encode_ms, decode_ms = (x * 1e3 for x in parts[side])
        print(
            f"{label:24}{encode_ms:10.1f}{decode_ms:10.1f}"
            f"{total[side] * 1e3:10.1f}{best * 1e3:10.1f}"
        )
    ratio = total[theirs] / total["ours"]
    print(f"HF / flaxae {ratio:.2f} (same ids: {same:.3f})", flush=True)
    return {
        "name": f"encode + greedy decode, {name}",
        "ours": total["ours"],
        "theirs": total[theirs],
        "unit": "s",
        "ratio": round(ratio, 3),
        "texts": len(ids),
        "tokens": tokens,
        "compile_s": round(first, 2),
        "ours_encode": parts["ours"][0],
        "ours_decode": parts["ours"][1],
        "theirs_encode": parts[theirs][0],
        "theirs_decode": parts[theirs][1],
        "torch": theirs,
    }


def main() -> None:
    """Measure all cases and print the JSON line."""
    args = _arguments()
    _threads.pin(args.threads)
    try:
        import torch
        import transformers
    except ImportError:
        sys.exit("this benchmark needs torch: make env-parity")
    torch.set_num_threads(args.threads)
    from flaxae.text_autoencoder.saving import read_tokenizer
    from flaxae.training.load import load

    config = runpy.run_path(str(ROOT / "configs/t5_vae/python_lines.py"))["get_config"]("copy")
    cases = [measure("forced", *endless_model(config), 0, config, args)]
    if (Path(args.run) / "config.json").is_file():
        loaded = load(args.run)
        tokenizer = read_tokenizer(Path(args.run), loaded.model.vocab_size)
        case = ("trained", loaded.model, tokenizer, loaded.step, loaded.config)
        cases.append(measure(*case, args))
    else:
        print(f"{args.run}: there is no trained run, so the case of texts that end is skipped")
    print(
        json.dumps(
            {
                "name": "t5_vae_generate",
                "cases": cases,
                "threads": args.threads,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
