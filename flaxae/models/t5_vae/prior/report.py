"""What each prior is good for: samples, the round trip through noise, the way between two codes."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from flaxae.losses import mmd
from flaxae.measures import stats
from flaxae.measures.text import is_valid
from flaxae.text_autoencoder.priors import GMMPrior, StandardNormal, fit
from flaxae.text_autoencoder.priors.base import Prior, slerps

NUM = 1000  # samples, and lines of the round trip
PAIRS = 200
BETWEEN = 5  # texts on the way between two
MAX_FIT = 30_000  # codes that the mixture is fitted to: its fit takes minutes beyond


def report(loaded: Any, outdir: str) -> dict[str, Any]:
    """All priors side by side on the codes of the flow's T5-VAE; nothing of the test splits.

    Args:
        loaded: a flow's run, as `flaxae.load` gives it.
        outdir: report.json is written here, and each prior into a folder of its own.

    Returns:
        What report.json holds.
    """
    task, folder = loaded.task, Path(outdir)
    codes, codec = task.codes, task.codes.codec
    train = codes.codes("train")
    rng = np.random.default_rng(0)
    some = train[rng.permutation(len(train))[:MAX_FIT]]
    priors: dict[str, Prior] = {
        # Divided here by what decoding multiplies with: the decoder then sees N(0, I) itself.
        "N(0, I)": StandardNormal(codes.dim, 1 / codec.scale),
        "Gaussian": task.base,
        "GMM-10": fit("gmm", some),
        "flow": task.prior(loaded.model),
    }
    lines, dev = codes.lines("dev"), codes.codes("dev")
    order = rng.permutation(len(dev))
    lines, dev = [lines[i] for i in order], dev[order]
    known = set(codes.lines("train"))
    result = {
        "step": loaded.step,
        "t5_vae": {"workdir": str(codes.workdir), "step": codes.loaded.step},
        "fitted_to": {"codes": len(train), "dim": codes.dim, "mixture": len(some)},
        "priors": {},
        "references": references(codec, lines, dev, some, known),
    }
    for name, prior in priors.items():
        result["priors"][name] = measure(prior, codec, lines, dev, known)
        prior.save(folder / prior.kind)
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print(describe(result))
    return result


def measure(
    prior: Prior,
    codec: Any,
    lines: list[str],
    dev: Float[np.ndarray, "n D"],
    known: set[str],
) -> dict[str, Any]:
    """A prior's samples, round trip and ways between codes.

    Args:
        prior: of clean codes.
        codec: decodes them.
        lines: held-out texts, in random order, and
        dev: their codes.
        known: texts that were trained on.
    """
    size = min(NUM, len(dev))
    drawn = prior.sample(size)
    noise, back = round_trip(prior, dev[:size])
    error = np.linalg.norm(back - dev[:size], axis=1) / np.linalg.norm(dev[:size], axis=1)
    return {
        "samples": texts_of(codec, drawn, known) | {"mmd": distance(drawn, dev[:size])},
        "round_trip": {
            "exact_match": exact(codec, back, lines[:size]),
            "error": float(error.mean()),
        },
        "noise": {"squared_norm_over_dim": float(np.square(noise).mean())},
        "interpolation": ways(codec, prior.interpolate, dev),
    }


def references(
    codec: Any,
    lines: list[str],
    dev: Float[np.ndarray, "n D"],
    train: Float[np.ndarray, "m D"],
    known: set[str],
) -> dict[str, Any]:
    """What no prior can better: real codes decoded; and ways that need no prior."""
    size = min(NUM, len(dev))

    def lerp(a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
        share = np.linspace(0, 1, steps, dtype=np.float32)[None, :, None]
        return (1 - share) * a[:, None] + share * b[:, None]

    def turned(a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
        return slerps(a, b, steps).reshape(len(a), steps, -1)

    return {
        "real codes": {
            "samples": texts_of(codec, dev[:size], known)
            | {"mmd": distance(train[:size], dev[:size])},
            "exact_match": exact(codec, dev[:size], lines[:size]),
        },
        "slerp": {"interpolation": ways(codec, turned, dev)},
        "lerp": {"interpolation": ways(codec, lerp, dev)},
    }


def round_trip(
    prior: Prior, z: Float[np.ndarray, "n D"]
) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, "n D"]]:
    """The noise of codes, and its codes; a mixture goes back through the component it came by."""
    noise = prior.to_noise(z)
    if isinstance(prior, GMMPrior):
        return noise, prior.from_noise(noise, prior.component(z))
    return noise, prior.from_noise(noise)


def texts_of(codec: Any, z: Float[np.ndarray, "n D"], known: set[str]) -> dict[str, Any]:
    """Of decoded codes: how many parse as Python, differ, and are training texts."""
    texts = decode(codec, z)
    return {
        "n": len(texts),
        "validity": mean([float(is_valid(t)) for t in texts]),
        "distinct": len(set(texts)) / len(texts),
        "in_training_lines": float(np.mean([t in known for t in texts])),
        "mean_characters": float(np.mean([len(t) for t in texts])),
        "examples": texts[:8],
    }


def ways(codec: Any, walk: Any, dev: Float[np.ndarray, "n D"]) -> dict[str, Any]:
    """Texts between codes of neighbouring lines: how many parse, and how many a way differ.

    Args:
        codec: decodes them.
        walk: (a (n, D), b (n, D), steps) -> codes (n, steps, D), both ends included.
        dev: codes, in random order.
    """
    pairs = min(PAIRS, len(dev) // 2)
    codes = walk(dev[0 : 2 * pairs : 2], dev[1 : 2 * pairs : 2], BETWEEN + 2)[:, 1:-1]
    texts = decode(codec, codes.reshape(-1, dev.shape[1]))
    groups = [texts[i : i + BETWEEN] for i in range(0, len(texts), BETWEEN)]
    valid = [sum(map(is_valid, group)) / BETWEEN for group in groups]
    return {
        "pairs": pairs,
        "validity": mean(valid),
        "distinct": float(np.mean([len(set(group)) / BETWEEN for group in groups])),
        "examples": groups[0],
    }


def exact(codec: Any, z: Float[np.ndarray, "n D"], lines: list[str]) -> dict[str, float]:
    made = decode(codec, z)
    return mean([float(a == b) for a, b in zip(made, lines, strict=True)])


def decode(codec: Any, z: Float[np.ndarray, "n D"]) -> list[str]:
    return codec.decode(z.reshape(len(z), codec.num_latents, codec.dim))


def distance(a: Float[np.ndarray, "n D"], b: Float[np.ndarray, "n D"]) -> float:
    """MMD^2 of drawn against held-out codes; 0 in the mean where they are of one density."""
    return float(jax.jit(mmd)(a, b))


def mean(values: list[float]) -> dict[str, float]:
    """With its 95 % interval, over rows."""
    return stats.bootstrap(values).as_dict()


def describe(result: dict[str, Any]) -> str:
    """A report as text."""

    def three(row: dict[str, float]) -> str:
        return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"

    fitted, real = result["fitted_to"], result["references"]["real codes"]
    lines = [
        f"priors on the codes of {result['t5_vae']['workdir']} (step {result['t5_vae']['step']}); "
        f"{fitted['codes']} codes of {fitted['dim']} dimensions; 95 % intervals",
        f"{'':<12}{'samples valid':>23}{'distinct':>10}{'seen':>7}{'MMD^2':>10}"
        f"{'round trip exact':>23}{'error':>9}{'between valid':>23}{'distinct':>10}",
    ]
    for name, row in result["priors"].items():
        drawn, back, way = row["samples"], row["round_trip"], row["interpolation"]
        lines.append(
            f"{name:<12}{three(drawn['validity']):>23}{drawn['distinct']:>10.3f}"
            f"{drawn['in_training_lines']:>7.3f}{drawn['mmd']:>10.1e}"
            f"{three(back['exact_match']):>23}{back['error']:>9.1e}"
            f"{three(way['validity']):>23}{way['distinct']:>10.3f}"
        )
    drawn = real["samples"]
    lines.append(
        f"{'real codes':<12}{three(drawn['validity']):>23}{drawn['distinct']:>10.3f}"
        f"{drawn['in_training_lines']:>7.3f}{drawn['mmd']:>10.1e}{three(real['exact_match']):>23}"
    )
    for name in ("slerp", "lerp"):
        way = result["references"][name]["interpolation"]
        lines.append(f"{name:<94}{three(way['validity']):>23}{way['distinct']:>10.3f}")
    lines.append("seen: share that are training lines, verbatim; MMD^2 against held-out codes")
    for name, row in result["priors"].items():
        lines.append(f"samples of {name}:")
        lines += [f"    {text}" for text in row["samples"]["examples"][:5]]
    return "\n".join(lines)
