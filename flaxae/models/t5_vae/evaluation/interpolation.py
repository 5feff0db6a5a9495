"""Ways between two codes, and whether the texts on them change step by step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.lm.t5.modeling import EOS, PAD
from flaxae.measures import text as text_metrics
from flaxae.measures.stats import bootstrap
from flaxae.measures.text import path_lengths
from flaxae.text_autoencoder.latents import lerp, slerp

PAIRS = (
    ("import os", "from typing import Any"),
    ("return self.name", "raise ValueError(name)"),
    ("for i in range(10):", "while True:"),
    ("x = [1, 2, 3]", "self.assertEqual(a, b)"),
)


def path_rows(paths: Sequence[Sequence[str]]) -> Float[np.ndarray, "n 5"]:
    """`path_lengths` each way, a row a way."""
    return np.asarray([path_lengths(path) for path in paths], float).reshape(-1, 5)


def scores(paths: Sequence[Sequence[str]], python: bool, draws: int = 1000) -> dict[str, Any]:
    """Three numbers of ways that only mean something together, and validity between their ends.

    Args:
        paths: texts of each way, ends included.
        python: they are lines of Python.
        draws: of the bootstrap, over ways.

    Returns:
        path_ratio: d(x_0, x_T) / sum of d(x_t, x_t+1), at most 1: no detours. A way that copies its
            first end, then its last, has 1 too:
        max_step_share: largest step / sum of steps: 1 is one jump, 1 / steps is even.
        distinct: different texts / texts.
        validity: of the texts between the ends.
        Each a mean over ways with its interval; ways whose texts are all equal are left out of the
        first two.
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
    """The way that jumps once, in the middle: what a code with holes gives."""
    return [a] * (steps - steps // 2) + [b] * (steps // 2)


def token_mix(
    a: Int[np.ndarray, " T"], b: Int[np.ndarray, " T"], steps: int, rng: np.random.Generator
) -> Int[np.ndarray, "n T"]:
    """The way that swaps tokens one by one, in random order: smooth, and nonsense between."""
    order = rng.random(len(a))
    share = np.linspace(0, 1, steps)[:, None]
    return np.where(order < share, b, a)


def _mixed(codec: Any, first: np.ndarray, second: np.ndarray, steps: int) -> list[list[str]]:
    rng = np.random.default_rng(0)
    out = []
    for a, b in zip(first, second, strict=True):
        length = max((a != PAD).sum(), (b != PAD).sum())  # no order is wasted on padding of both
        mixed = token_mix(a[:length], b[:length], steps, rng)
        # An end in the middle would cut the text: what stands behind it counts.
        inner = [[i for i in row if i not in (PAD, EOS)] + [EOS] for row in mixed.tolist()]
        width = max(len(row) for row in inner)
        padded = np.asarray([row + [PAD] * (width - len(row)) for row in inner])
        out.append(codec.texts(padded))
    return out


def study(
    codec: Any, lines: list[str], *, pairs: int, steps: int, python: bool, draws: int = 1000
) -> dict[str, Any]:
    """Scores of ways between random lines: slerp and lerp, beside two ways that need no model.

    Args:
        codec: has ids, encode_ids, decode, texts.
        lines: at least two.
        pairs: how many ways.
        steps: texts on each, ends included.
        python: they are lines of Python.
        draws: of the bootstrap.
    """
    rng = np.random.default_rng(0)
    first = rng.integers(len(lines), size=pairs)
    second = (first + rng.integers(1, len(lines), size=pairs)) % len(lines)
    ids = codec.ids(lines)
    a, b = codec.encode_ids(ids[first]), codec.encode_ids(ids[second])
    out: dict[str, Any] = {"pairs": pairs, "steps": steps}
    ends: list[list[str]] = []
    for name, way in (("slerp", slerp), ("lerp", lerp)):
        codes = np.concatenate([way(x, y, steps) for x, y in zip(a, b, strict=True)])
        texts = codec.decode(codes)
        ends = [texts[i : i + steps] for i in range(0, len(texts), steps)]
        out[name] = scores(ends, python, draws)
    copies = [copy_endpoint(path[0], path[-1], steps) for path in ends]
    out["copy_endpoint"] = scores(copies, python, draws)
    out["token_mix"] = scores(_mixed(codec, ids[first], ids[second], steps), python, draws)
    return out


def shown(lines: list[str], python: bool) -> list[tuple[str, str]]:
    """Whose ways a report shows: the same for every Python model, else held-out lines."""
    if python:
        return list(PAIRS)
    return [(lines[i], lines[-1 - i]) for i in range(min(len(lines) // 2, len(PAIRS)))]


def examples(codec: Any, lines: list[str], python: bool, steps: int = 7) -> list[dict[str, Any]]:
    """For each shown pair the texts on the way from one to the other, and how many parse."""
    out = []
    for a, b in shown(lines, python):
        za, zb = codec.encode([a, b])
        texts = codec.decode(slerp(za, zb, steps))
        out.append({"from": a, "to": b, "texts": texts})
        if python:
            out[-1]["validity"] = text_metrics.validity(texts)
    return out
