"""Comparison of priors: samples, the round trip through noise, and paths between two codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from flaxae.errors import ConfigError
from flaxae.losses import mmd
from flaxae.measures import stats
from flaxae.measures.text import is_valid
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.priors import AutoregressivePrior, GMMPrior, StandardNormal, fit
from flaxae.text_autoencoder.priors.base import Prior, slerps

NUM = 1000  # number of samples, and of lines for the round trip
PAIRS = 200  # number of paths
BETWEEN = 5  # number of texts between the ends of a path
MAX_FIT = 30_000  # number of codes for the mixture, whose fit takes minutes beyond that

Interpolation = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def report(loaded: Any, outdir: str) -> dict[str, Any]:
    """Compare all priors of the codes of a flow's T5-VAE, without use of the test splits.

    Args:
        loaded: a flow's run, as `flaxae.load` returns it.
        outdir: receives report.json, and one folder per prior.

    Returns:
        The content of report.json.
    """
    task, folder = loaded.task, Path(outdir)
    codes, codec = task.codes, task.codes.codec
    train = codes.codes("train")
    rng = np.random.default_rng(0)
    some = train[rng.permutation(len(train))[:MAX_FIT]]
    priors: dict[str, Prior] = {
        # Scaled so that the decoder, which multiplies codes by codec.scale, reads N(0, I).
        "N(0, I)": StandardNormal(codes.dim, 1 / codec.scale),
        "Gaussian": fit("gaussian", train),
    }
    left_out = {}
    try:
        priors["GMM-10"] = fit("gmm", some)
    except ConfigError as error:  # there are fewer codes than components
        left_out["GMM-10"] = str(error)
    priors[task.name] = task.prior(loaded.model)
    lines, dev = codes.lines("dev"), codes.codes("dev")
    order = rng.permutation(len(dev))
    lines, dev = [lines[i] for i in order], dev[order]
    known = set(codes.lines("train"))
    result = {
        "step": loaded.step,
        "t5_vae": {"workdir": str(codes.workdir), "step": codes.loaded.step},
        "fitted_to": {"codes": len(train), "dim": codes.dim, "mixture": len(some)},
        "priors": {},
        "left_out": left_out,
        "references": references(codec, lines, dev, some, known),
    }
    for name, prior in priors.items():
        result["priors"][name] = measure(prior, codec, lines, dev, known)
        prior.save(folder / prior.kind)
    print(describe(result))
    result = stats.finite(result)
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def measure(
    prior: Prior,
    codec: Codec,
    lines: list[str],
    dev: Float[np.ndarray, "n D"],
    known: set[str],
) -> dict[str, Any]:
    """Measure a prior's samples, round trip and paths.

    Args:
        prior: a prior of clean codes.
        codec: the model's codec.
        lines: held-out texts, in random order.
        dev: their codes.
        known: the training texts.
    """
    size = min(NUM, len(dev))
    drawn = prior.sample(size)
    assumed = codec.sigma if isinstance(prior, StandardNormal) else None
    noise, back = round_trip(prior, dev[:size])
    error = np.linalg.norm(back - dev[:size], axis=1) / np.linalg.norm(dev[:size], axis=1)
    return {
        "samples": texts_of(codec, drawn, known, assumed) | {"mmd": distance(drawn, dev[:size])},
        "round_trip": {
            "exact_match": exact(codec, back, lines[:size]),
            "error": float(error.mean()),
        },
        "noise": {"squared_norm_over_dim": float(np.square(noise).mean())},
        "interpolation": path_scores(codec, prior.interpolate, dev),
    }


def references(
    codec: Codec,
    lines: list[str],
    dev: Float[np.ndarray, "n D"],
    train: Float[np.ndarray, "m D"],
    known: set[str],
) -> dict[str, Any]:
    """Measure references: decoded real codes, and paths without a prior."""
    size = min(NUM, len(dev))

    def lerp(a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
        share = np.linspace(0, 1, steps, dtype=np.float32)[None, :, None]
        return (1 - share) * a[:, None] + share * b[:, None]

    def slerp(a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
        return slerps(a, b, np.linspace(0, 1, steps)).reshape(len(a), steps, -1)

    return {
        "real codes": {
            "samples": texts_of(codec, dev[:size], known)
            | {"mmd": distance(train[:size], dev[:size])},
            "exact_match": exact(codec, dev[:size], lines[:size]),
        },
        "slerp": {"interpolation": path_scores(codec, slerp, dev)},
        "lerp": {"interpolation": path_scores(codec, lerp, dev)},
    }


def round_trip(
    prior: Prior, z: Float[np.ndarray, "n D"]
) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, "n D"]]:
    """Return the noise of codes, and the codes of that noise by the same component of a mixture."""
    noise = prior.to_noise(z)
    if isinstance(prior, (GMMPrior, AutoregressivePrior)):
        return noise, prior.from_noise(noise, prior.component(z))
    return noise, prior.from_noise(noise)


def texts_of(
    codec: Codec,
    z: Float[np.ndarray, "n D"],
    known: set[str],
    assumed_noise: float | None = None,
) -> dict[str, Any]:
    """Decode codes and count texts that parse as Python, are distinct, or are training texts."""
    texts = decode(codec, z, assumed_noise)
    return {
        "n": len(texts),
        "validity": mean([float(is_valid(t)) for t in texts]),
        "distinct": len(set(texts)) / len(texts),
        "in_training_lines": float(np.mean([t in known for t in texts])),
        "mean_characters": float(np.mean([len(t) for t in texts])),
        "examples": texts[:8],
    }


def path_scores(
    codec: Codec, interpolate: Interpolation, dev: Float[np.ndarray, "n D"]
) -> dict[str, Any]:
    """Decode paths between codes and measure validity and distinct texts between the ends.

    Args:
        codec: the model's codec.
        interpolate: maps first ends (n, D), last ends (n, D) and a number of steps to codes
            (n, steps, D), both ends included.
        dev: codes, in random order.
    """
    pairs = min(PAIRS, len(dev) // 2)
    if not pairs:
        return {"pairs": 0, "validity": mean([]), "distinct": float("nan"), "examples": []}
    codes = interpolate(dev[0 : 2 * pairs : 2], dev[1 : 2 * pairs : 2], BETWEEN + 2)[:, 1:-1]
    shape = (-1, codec.num_latents, codec.dim)
    texts = codec.decode(codec.on_space(codes.reshape(shape)))
    groups = [texts[i : i + BETWEEN] for i in range(0, len(texts), BETWEEN)]
    valid = [sum(map(is_valid, group)) / BETWEEN for group in groups]
    return {
        "pairs": pairs,
        "validity": mean(valid),
        "distinct": float(np.mean([len(set(group)) / BETWEEN for group in groups])),
        "examples": groups[0],
    }


def exact(codec: Codec, z: Float[np.ndarray, "n D"], lines: list[str]) -> dict[str, float]:
    """Return the share of codes whose text is the line, with its interval."""
    texts = decode(codec, z)
    return mean([float(a == b) for a, b in zip(texts, lines, strict=True)])


def decode(
    codec: Codec, z: Float[np.ndarray, "n D"], assumed_noise: float | None = None
) -> list[str]:
    """Decode flattened codes."""
    codes = z.reshape(len(z), codec.num_latents, codec.dim)
    return codec.decode(codes, assumed_noise=assumed_noise)


def distance(a: Float[np.ndarray, "n D"], b: Float[np.ndarray, "n D"]) -> float:
    """Return the MMD^2 of two sets of codes, whose mean is 0 if both have one distribution.

    It is nan if one of them has fewer than two codes.
    """
    if min(len(a), len(b)) < 2:
        return float("nan")
    return float(jax.jit(mmd)(a, b))


def mean(values: list[float]) -> dict[str, float]:
    """Return the mean with its 95 % interval over rows."""
    return stats.bootstrap(values).as_dict()


def describe(result: dict[str, Any]) -> str:
    """Return a report as text."""

    def with_interval(row: dict[str, float]) -> str:
        return str(stats.Interval(**row))

    fitted, real = result["fitted_to"], result["references"]["real codes"]
    lines = [
        f"priors on the codes of {result['t5_vae']['workdir']} (step {result['t5_vae']['step']}); "
        f"{fitted['codes']} codes of {fitted['dim']} dimensions; 95 % intervals",
        f"{'':<16}{'samples valid':>23}{'distinct':>10}{'seen':>7}{'MMD^2':>10}"
        f"{'round trip exact':>23}{'error':>9}{'between valid':>23}{'distinct':>10}",
    ]
    for name, row in result["priors"].items():
        drawn, back, path = row["samples"], row["round_trip"], row["interpolation"]
        lines.append(
            f"{name:<16}{with_interval(drawn['validity']):>23}{drawn['distinct']:>10.3f}"
            f"{drawn['in_training_lines']:>7.3f}{drawn['mmd']:>10.1e}"
            f"{with_interval(back['exact_match']):>23}{back['error']:>9.1e}"
            f"{with_interval(path['validity']):>23}{path['distinct']:>10.3f}"
        )
    drawn = real["samples"]
    lines.append(
        f"{'real codes':<16}{with_interval(drawn['validity']):>23}{drawn['distinct']:>10.3f}"
        f"{drawn['in_training_lines']:>7.3f}{drawn['mmd']:>10.1e}{with_interval(real['exact_match']):>23}"
    )
    for name in ("slerp", "lerp"):
        path = result["references"][name]["interpolation"]
        lines.append(f"{name:<94}{with_interval(path['validity']):>23}{path['distinct']:>10.3f}")
    lines += [f"{name} is left out: {why}" for name, why in result["left_out"].items()]
    lines.append("seen: share that are training lines, verbatim; MMD^2 against held-out codes")
    for name, row in result["priors"].items():
        lines.append(f"samples of {name}:")
        lines += [f"    {text}" for text in row["samples"]["examples"][:5]]
    return "\n".join(lines)
