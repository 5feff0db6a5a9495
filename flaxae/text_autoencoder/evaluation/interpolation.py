"""Interpolation between two codes: do the texts on the path change step by step?"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.data.tokenizer import EOS, PAD
from flaxae.measures import text as text_metrics
from flaxae.measures.stats import bootstrap
from flaxae.measures.text import path_lengths
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation.paths import texts_of_paths
from flaxae.text_autoencoder.interpolation import PATHS as NAMES
from flaxae.text_autoencoder.interpolation import PathPrior
from flaxae.text_autoencoder.samples import too_few

PAIRS = (
    ("import os", "from typing import Any"),
    ("return self.name", "raise ValueError(name)"),
    ("for i in range(10):", "while True:"),
    ("x = [1, 2, 3]", "self.assertEqual(a, b)"),
)
SHOWN = 10  # pairs of lines whose paths a report shows


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
        validity, middle_validity: shares of valid texts between the ends, and in the middle third
            of the paths, for lines of Python.
        repetition: repeated bigrams of words of the texts between the ends.
    """
    rows = path_rows(paths)
    moving = rows[rows[:, 1] > 0]
    out = {
        "path_ratio": bootstrap(moving[:, 0] / moving[:, 1], draws=draws).as_dict(),
        "max_step_share": bootstrap(moving[:, 2] / moving[:, 1], draws=draws).as_dict(),
        "distinct": bootstrap(rows[:, 3] / rows[:, 4], draws=draws).as_dict(),
    }
    between = [list(path[1:-1]) for path in paths if len(path) > 2]
    repeats = [
        text_metrics.repeated_bigrams([text_metrics.words(x) for x in path]).sum(0)
        for path in between
    ]
    out["repetition"] = bootstrap(repeats, draws=draws).as_dict()
    if python:
        valid = [text_metrics.valid_mask(path) for path in between]
        shares = np.asarray([row.mean() for row in valid])
        middles = np.asarray([row[middle(len(row))].mean() for row in valid])
        out["validity"] = bootstrap(shares, draws=draws).as_dict()
        out["middle_validity"] = bootstrap(middles, draws=draws).as_dict()
    return out


def middle(between: int) -> slice:
    """Return the texts in the middle third of a path, among `between` texts without the ends."""
    last = between + 1  # index of the last end on the path
    first = -(-last // 3)  # smallest index of at least a third
    return slice(first - 1, max(last - first, first))


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
    codec: Codec,
    lines: list[str],
    *,
    pairs: int,
    steps: int,
    python: bool,
    prior: PathPrior | None = None,
    likeness: Callable[[list[str]], dict[str, Any]] | None = None,
    draws: int = 1000,
) -> dict[str, Any] | str:
    """Score paths between random lines by each interpolation and by two baselines without a model.

    Args:
        codec: the model with its tokenizer.
        lines: held-out lines.
        pairs: number of paths.
        steps: texts per path, ends included.
        python: whether the texts are lines of Python.
        prior: a prior through whose noise paths lead; None: there is none.
        likeness: measures the middle texts and the lines (see `SampleEvaluator.likeness`); None:
            they have no perplexity.
        draws: resamples of the bootstrap.

    Returns:
        `scores` by the name of the interpolation or baseline, with `pairs`, `steps`, `best` and
        `repetitive` (see `best_path`), and `real_repetition` (of the lines). For Python also
        `real_validity`, and `middle_over_real`, the ratio of each middle_validity to it. With
        `likeness` also `real_ppl`, and the `middle_ppl` of the texts in the middle third under its
        n-gram model: validity alone is fooled by degenerate texts. A sentence if there are fewer
        than two lines.
    """
    if missing := too_few(len(lines), 2, "an interpolation"):
        return missing
    rng = np.random.default_rng(0)
    first = rng.integers(len(lines), size=pairs)
    second = (first + rng.integers(1, len(lines), size=pairs)) % len(lines)
    ids = codec.ids(lines)
    a, b = codec.encode_ids(ids[first]), codec.encode_ids(ids[second])
    out: dict[str, Any] = {"pairs": pairs, "steps": steps}
    names = [name for name in NAMES if name != "prior" or prior is not None]
    made: dict[str, list[list[str]]] = {}
    for name in names:
        made[name] = texts_of_paths(codec, name, a, b, steps, prior)
    made["copy_endpoint"] = [copy_endpoint(path[0], path[-1], steps) for path in made[names[-1]]]
    made["token_mix"] = _mixed(codec, ids[first], ids[second], steps)
    for name, paths in made.items():
        out[name] = scores(paths, python, draws)
        if likeness is not None:
            inner = [text for path in paths for text in path[1:-1][middle(len(path) - 2)]]
            out[name]["middle_ppl"] = _perplexity(likeness, inner, draws)
    repeats = text_metrics.repeated_bigrams([text_metrics.words(line) for line in lines])
    out["real_repetition"] = bootstrap(repeats, draws=2).value
    if likeness is not None:
        out["real_ppl"] = _perplexity(likeness, lines, 2)["value"]
    if python:
        real = out["real_validity"] = text_metrics.validity(lines)
        for row in [out[name] for name in made]:
            ends = row["middle_validity"].items()
            row["middle_over_real"] = {k: x / real if real else float("nan") for k, x in ends}
    rows = {name: out[name] for name in names}
    out["repetitive"] = [name for name, row in rows.items() if _repeats(row, out)]
    out["best"] = best_path(rows, out)
    return out


def _perplexity(
    likeness: Callable[[list[str]], dict[str, Any]], texts: list[str], draws: int
) -> dict[str, float]:
    """Return the perplexity of texts with its interval; nan if there are none."""
    if not texts:
        return bootstrap([], draws=draws).as_dict()
    found = likeness(texts)
    low, high = found["intervals"]["forward_ppl"]
    return {"value": found["forward_ppl"], "low": low, "high": high}


def best_path(rows: dict[str, dict[str, Any]], real: dict[str, Any]) -> str:
    """Return the interpolation with the largest product of good texts and even steps.

    Good is the share of valid texts in the middle third for Python; else the perplexity of real
    lines over that of the middle third, at most 1; without a perplexity the path ratio. Even is 1 -
    the largest step's share: a path that copies its ends has 0. Paths whose texts repeat words
    significantly more than real lines are left out, unless all do. Ties go to the first.

    Args:
        rows: `scores` by the name of the interpolation.
        real: real_repetition and, if it was measured, real_ppl.
    """

    def score(row: dict[str, Any]) -> float:
        if "middle_validity" in row:
            good = row["middle_validity"]["value"]
        elif "middle_ppl" in row:
            good = min(1.0, real["real_ppl"] / row["middle_ppl"]["value"])
        else:
            good = row["path_ratio"]["value"]
        return float(np.nan_to_num(good * (1 - row["max_step_share"]["value"])))

    names = [name for name, row in rows.items() if not _repeats(row, real)] or list(rows)
    return max(names, key=lambda name: score(rows[name]))


def _repeats(row: dict[str, Any], real: dict[str, Any]) -> bool:
    """Return True if the texts of paths repeat words significantly more than real lines."""
    return bool(row["repetition"]["low"] > real["real_repetition"])


def example_pairs(lines: list[str], python: bool, count: int = SHOWN) -> list[tuple[str, str]]:
    """Return the pairs that a report shows: random held-out lines, for Python fixed ones first."""
    fixed = list(PAIRS) if python else []
    order = np.random.default_rng(0).permutation(len(lines)).tolist()
    drawn = zip(order[::2], order[1::2], strict=False)
    return [*fixed, *((lines[i], lines[j]) for i, j in drawn)][:count]


def examples(
    codec: Codec,
    lines: list[str],
    python: bool,
    studied: dict[str, Any] | str = "",
    *,
    prior: PathPrior | None = None,
    steps: int = 7,
    count: int = SHOWN,
) -> list[dict[str, Any]]:
    """Return the texts on paths between pairs of lines, which are not selected.

    Args:
        codec: the model with its tokenizer.
        lines: held-out lines.
        python: whether the texts are lines of Python.
        studied: the result of `study`, which names the best path.
        prior: the prior of the path "prior".
        steps: texts per path, ends included.
        count: most pairs.

    Returns:
        For each pair its ends `from` and `to`, the `texts` on a slerp, for Python their `validity`,
        and if another path is better its name `best` and its texts `best_texts`.
    """
    pairs = example_pairs(lines, python, count)
    if not pairs:
        return []
    ends = codec.encode([text for pair in pairs for text in pair])
    best = studied["best"] if isinstance(studied, dict) else "slerp"

    def paths(name: str) -> list[list[str]]:
        return texts_of_paths(codec, name, ends[::2], ends[1::2], steps, prior)

    out: list[dict[str, Any]] = [
        {"from": a, "to": b, "texts": texts}
        for (a, b), texts in zip(pairs, paths("slerp"), strict=True)
    ]
    if python:
        for row in out:
            row["validity"] = text_metrics.validity(row["texts"])
    if best != "slerp":
        for row, texts in zip(out, paths(best), strict=True):
            row |= {"best": best, "best_texts": texts}
    return out
