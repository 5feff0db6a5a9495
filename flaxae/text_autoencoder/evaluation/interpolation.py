"""Interpolation between two codes: do the texts on the path change step by step?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.data.tokenizer import EOS, PAD
from flaxae.measures import text as text_metrics
from flaxae.measures.stats import bootstrap
from flaxae.measures.text import path_lengths
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.interpolation import lerp, slerp
from flaxae.text_autoencoder.samples import too_few

PAIRS = (
    ("import os", "from typing import Any"),
    ("return self.name", "raise ValueError(name)"),
    ("for i in range(10):", "while True:"),
    ("x = [1, 2, 3]", "self.assertEqual(a, b)"),
)


def path_rows(paths: Sequence[Sequence[str]]) -> Float[np.ndarray, "n 5"]:
    """Return the `path_lengths` of each path, one row per path."""
    return np.asarray([path_lengths(path) for path in paths], float).reshape(-1, 5)


def scores(paths: Sequence[Sequence[str]], python: bool, draws: int = 1000) -> dict[str, Any]:
    """Score paths of texts by three numbers that must be read together, and by validity.

    Args:
        paths: texts of each path, ends included.
        python: whether the texts are lines of Python.
        draws: resamples of the bootstrap over paths.

    Returns:
        Means over paths with their intervals. The first two leave out paths of equal texts.
        path_ratio: d(x_0, x_T) / sum of d(x_t, x_t+1); 1 means no detours, but a path that only
            copies its two ends reaches 1 too.
        max_step_share: largest step / sum of steps; 1 means a single jump, 1 / steps is even.
        distinct: different texts / texts.
        validity: share of valid texts between the ends, for lines of Python.
    """
    rows = path_rows(paths)
    moving = rows[rows[:, 1] > 0]
    out = {
        "path_ratio": bootstrap(moving[:, 0] / moving[:, 1], draws=draws).as_dict(),
        "max_step_share": bootstrap(moving[:, 2] / moving[:, 1], draws=draws).as_dict(),
        "distinct": bootstrap(rows[:, 3] / rows[:, 4], draws=draws).as_dict(),
    }
    if python:
        between = [text_metrics.valid_mask(path[1:-1]).mean() for path in paths if len(path) > 2]
        out["validity"] = bootstrap(np.asarray(between), draws=draws).as_dict()
    return out


def copy_endpoint(a: str, b: str, steps: int) -> list[str]:
    """Return the path that jumps once, in the middle, as in a latent space with holes."""
    return [a] * (steps - steps // 2) + [b] * (steps // 2)


def token_mix(
    a: Int[np.ndarray, " T"], b: Int[np.ndarray, " T"], steps: int, rng: np.random.Generator
) -> Int[np.ndarray, "n T"]:
    """Return the path that swaps tokens one by one, in random order: smooth but meaningless."""
    order = rng.random(len(a))
    share = np.linspace(0, 1, steps)[:, None]
    return np.where(order < share, b, a)


def _mixed(codec: Codec, first: np.ndarray, second: np.ndarray, steps: int) -> list[list[str]]:
    """Return the texts of `token_mix` for each pair of rows of ids."""
    rng = np.random.default_rng(0)
    out = []
    for a, b in zip(first, second, strict=True):
        length = max((a != PAD).sum(), (b != PAD).sum())  # skips padding of both
        mixed = token_mix(a[:length], b[:length], steps, rng)
        # An EOS in the middle would cut the text: it moves to the end.
        inner = [[i for i in row if i not in (PAD, EOS)] + [EOS] for row in mixed.tolist()]
        width = max(len(row) for row in inner)
        padded = np.asarray([row + [PAD] * (width - len(row)) for row in inner])
        out.append(codec.texts(padded))
    return out


def study(
    codec: Codec, lines: list[str], *, pairs: int, steps: int, python: bool, draws: int = 1000
) -> dict[str, Any] | str:
    """Score paths between random lines by slerp, by lerp and by two baselines without a model.

    Args:
        codec: the model with its tokenizer.
        lines: held-out lines.
        pairs: number of paths.
        steps: texts per path, ends included.
        python: whether the texts are lines of Python.
        draws: resamples of the bootstrap.

    Returns:
        `scores` by the name of the interpolation or baseline, with `pairs` and `steps`; a sentence
        if there are fewer than two lines.
    """
    if missing := too_few(len(lines), 2, "an interpolation"):
        return missing
    rng = np.random.default_rng(0)
    first = rng.integers(len(lines), size=pairs)
    second = (first + rng.integers(1, len(lines), size=pairs)) % len(lines)
    ids = codec.ids(lines)
    a, b = codec.encode_ids(ids[first]), codec.encode_ids(ids[second])
    out: dict[str, Any] = {"pairs": pairs, "steps": steps}
    paths: list[list[str]] = []
    for name, interpolate in (("slerp", slerp), ("lerp", lerp)):
        codes = np.concatenate([interpolate(x, y, steps) for x, y in zip(a, b, strict=True)])
        texts = codec.decode(codes)
        paths = [texts[i : i + steps] for i in range(0, len(texts), steps)]
        out[name] = scores(paths, python, draws)
    copies = [copy_endpoint(path[0], path[-1], steps) for path in paths]
    out["copy_endpoint"] = scores(copies, python, draws)
    out["token_mix"] = scores(_mixed(codec, ids[first], ids[second], steps), python, draws)
    return out


def example_pairs(lines: list[str], python: bool) -> list[tuple[str, str]]:
    """Return the pairs that a report shows: fixed ones for Python, else held-out lines."""
    if python:
        return list(PAIRS)
    return [(lines[i], lines[-1 - i]) for i in range(min(len(lines) // 2, len(PAIRS)))]


def examples(codec: Codec, lines: list[str], python: bool, steps: int = 7) -> list[dict[str, Any]]:
    """Return the texts on the path of each example pair, and for Python the share that parses."""
    out = []
    for a, b in example_pairs(lines, python):
        za, zb = codec.encode([a, b])
        texts = codec.decode(slerp(za, zb, steps))
        out.append({"from": a, "to": b, "texts": texts})
        if python:
            out[-1]["validity"] = text_metrics.validity(texts)
    return out
