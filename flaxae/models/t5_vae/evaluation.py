"""What a trained T5-VAE does: free-running reconstruction first, everything else beside it."""

import ast
import json
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from flaxae.lm.t5.modeling import PAD
from flaxae.losses import mmd, mmd_null
from flaxae.models.t5_vae import figures
from flaxae.models.t5_vae.codec import Codec
from flaxae.models.t5_vae.modeling import T5VAE
from flaxae.task import Context

NUM_SAMPLES = 1000
NUM_MMD = 1000
PAIRS = (
    ("import os", "from typing import Any"),
    ("return self.name", "raise ValueError(name)"),
    ("for i in range(10):", "while True:"),
    ("x = [1, 2, 3]", "self.assertEqual(a, b)"),
)


def is_valid(line: str) -> bool:
    """Whether a line parses as Python on its own."""
    if not line.strip():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(line)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return False
    return True


def validity(lines: list[str]) -> float:
    return float(np.mean([is_valid(line) for line in lines]))


def interpolate(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], steps: int
) -> Float[np.ndarray, "n ..."]:
    """Spherical interpolation of direction, linear of length (Shoemake 1985)."""
    shape, a, b = a.shape, a.ravel(), b.ravel()
    na, nb = np.linalg.norm(a), np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b / max(na * nb, 1e-12), -1, 1))
    share = np.linspace(0, 1, steps)[:, None]
    if angle < 1e-4:
        return ((1 - share) * a + share * b).astype(np.float32).reshape(-1, *shape)
    mix = np.sin((1 - share) * angle) * (a / na) + np.sin(share * angle) * (b / nb)
    way = mix / np.sin(angle) * ((1 - share) * na + share * nb)
    return way.astype(np.float32).reshape(-1, *shape)


def reconstruction(codec: Codec, lines: list[str], codes: Any = None) -> dict[str, float]:
    """Free-running greedy reconstruction of lines (from their own codes unless others are given).

    Returns:
        exact_match on strings, exact_match_ids, token_accuracy (matches / longer length) and
        validity of the reconstructions.
    """
    ids = codec.ids(lines)
    made = codec.generate((codec.encode_ids(ids) if codes is None else codes) * codec.scale)
    texts = codec.texts(made)
    longest = ((ids != PAD) | (made != PAD)).sum()
    return {
        "exact_match": float(np.mean([a == b for a, b in zip(texts, lines, strict=True)])),
        "exact_match_ids": float(np.mean(np.all(ids == made, axis=1))),
        "token_accuracy": float(((ids == made) & (ids != PAD)).sum() / longest),
        "validity": validity(texts),
    }


def latent_statistics(codec: Codec, codes: Float[np.ndarray, "B ..."]) -> dict[str, float]:
    """MMD^2 of the codes against N(0, I), with and without noise, beside its null."""
    n = min(len(codes), NUM_MMD)
    codes = codes.reshape(len(codes), -1)
    size = codes.shape[1]
    key = jax.random.key(0)
    prior, noise = np.asarray(jax.random.normal(key, (2, n, size)))
    null = float(np.percentile(mmd_null(jax.random.key(1), n, size, draws=100), 95))
    score = jax.jit(mmd)
    clean = float(score(codes[:n], prior))
    noisy = float(score(codes[:n] + np.float32(codec.sigma) * noise, prior))
    return {
        "n": n,
        "sigma": codec.sigma,
        "mmd": clean,
        "mmd_with_noise": noisy,
        "null_p95": null,
        "mmd_over_null": clean / null,
        "mmd_with_noise_over_null": noisy / null,
        "std_mean": float(codes.std(0).mean()),
        "squared_norm_over_dim": float(np.square(codes).sum(1).mean() / size),
    }


def evaluate(codec: Codec, splits: dict[str, list[str]], overlap: dict[str, float]) -> dict:
    """All measures; every split's numbers, samples and references are of the same parameters."""
    out: dict[str, Any] = {"splits": {}}
    for name in [n for n in ("dev", "test_file", "test_line") if splits.get(n)]:
        lines = splits[name]
        codes = codec.encode(lines)
        row = reconstruction(codec, lines, codes) | {"lines": len(lines)}
        row["validity_of_real_lines"] = validity(lines)
        row["in_training_files"] = float(overlap.get(name, 0.0))
        out["splits"][name] = row
        if name == "dev":
            out["latent"] = latent_statistics(codec, codes)
            shuffled = np.roll(codes, 1, axis=0)
            out["references"] = {
                "shuffled_codes": reconstruction(codec, lines, shuffled),
                "zero_code": reconstruction(codec, lines, np.zeros_like(codes)),
            }
    shape = (NUM_SAMPLES, codec.num_latents, codec.dim)
    prior = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    # The decoder was trained on z + noise, which the MMD pulls to N(0, I): draws go in unscaled.
    samples = codec.texts(codec.generate(prior))
    known = set(splits.get("train", []))
    out["samples"] = {
        "n": NUM_SAMPLES,
        "validity": validity(samples),
        "distinct": len(set(samples)) / NUM_SAMPLES,
        "in_training_lines": float(np.mean([s in known for s in samples])),
        "examples": samples[:12],
    }
    out["interpolations"] = interpolations(codec, list(PAIRS))
    return out


def interpolations(codec: Codec, pairs: list[tuple[str, str]], steps: int = 7) -> list[dict]:
    """For each pair the texts on the way from one to the other, and how many of them parse."""
    out = []
    for a, b in pairs:
        za, zb = codec.encode([a, b])
        texts = codec.decode(interpolate(za, zb, steps))
        out.append({"from": a, "to": b, "texts": texts, "validity": validity(texts)})
    return out


def sample_texts(task: Any, model: T5VAE, ctx: Context, n: int) -> dict[str, list[str]]:
    """What the loop shows: reconstructions, draws of the prior, the way between two lines."""
    codec = Codec(model, task.text.tokenizer, ctx.step)
    lines = list(task.text.lines("dev")[:n])
    if not lines:
        return {}
    codes = codec.encode(lines)
    shape = (n, codec.num_latents, codec.dim)
    prior = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    out = {
        "reconstructions": [
            f"{'=' if a == b else '!'} {a}   ->   {b}"
            for a, b in zip(lines, codec.decode(codes), strict=True)
        ],
        "samples of N(0, I)": codec.texts(codec.generate(prior)),
    }
    if len(lines) > 1:
        out["interpolation"] = codec.decode(interpolate(codes[0], codes[1], 5))
    return out


def report(loaded: Any, outdir: str) -> dict[str, Any]:
    """The whole evaluation of a run.

    Args:
        loaded: what `flaxae.load` returns.
        outdir: report.json, learning_curves.png and latent_map.png are written here.
    Returns:
        What report.json holds.
    """
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    text = loaded.task.text
    codec = Codec(loaded.model, text.tokenizer, loaded.step)
    splits = {name: text.lines(name) for name in text.splits}
    result = {"step": loaded.step, **evaluate(codec, splits, dict(text.overlap))}
    for name, row in result["splits"].items():
        row["too_long_and_skipped"] = text.source(name).skipped
    log = Path(loaded.workdir) / "metrics.jsonl"
    paths = {}
    if log.exists():
        paths["learning_curves"] = figures.learning_curves(log, folder / "learning_curves.png")
    lines = splits.get("dev", [])
    if lines:
        codes = codec.encode(lines)
        paths["latent_map"] = figures.latent_map(
            codes.reshape(len(codes), -1), lines, folder / "latent_map.png"
        )
    result["figures"] = {name: str(path) for name, path in paths.items()}
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print(describe(result))
    return result


def describe(result: dict[str, Any]) -> str:
    """A report as text."""
    columns = ("lines", "exact", "tokens", "valid", "(real)", "seen")
    head = f"{'split':<10}" + "".join(f"{name:>8}" for name in columns)
    lines = [f"T5-VAE at step {result['step']}, free-running greedy reconstruction", head]
    for name, row in result["splits"].items():
        keys = ("exact_match", "token_accuracy", "validity", "validity_of_real_lines")
        numbers = "".join(f"{row[key]:>8.3f}" for key in (*keys, "in_training_files"))
        lines.append(f"{name:<10}{row['lines']:>8}{numbers}")
    lines.append("seen: share of these lines that also stand in the training files")
    for name, row in result.get("references", {}).items():
        lines.append(
            f"reference, {name.replace('_', ' ')}: exact {row['exact_match']:.3f}, "
            f"tokens {row['token_accuracy']:.3f}, valid {row['validity']:.3f}"
        )
    if "latent" in result:
        row = result["latent"]
        lines.append(
            f"latent: MMD^2 {row['mmd']:.2e} = {row['mmd_over_null']:.1f} x the null's p95 "
            f"(with noise {row['sigma']:.2f}: {row['mmd_with_noise_over_null']:.1f} x), "
            f"|z|^2/d {row['squared_norm_over_dim']:.2f}"
        )
    row = result["samples"]
    lines.append(
        f"samples of N(0, I): valid {row['validity']:.3f}, distinct {row['distinct']:.3f}, "
        f"{row['in_training_lines']:.3f} are training lines"
    )
    lines += [f"    {text}" for text in row["examples"][:6]]
    for way in result["interpolations"]:
        lines.append(f"from {way['from']!r} to {way['to']!r}:")
        lines += [f"    {text}" for text in way["texts"]]
    lines += [f"{name.replace('_', ' ')}: {path}" for name, path in result["figures"].items()]
    return "\n".join(lines)
