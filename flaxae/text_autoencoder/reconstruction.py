"""Reconstruction of texts from their codes, the main result of a text autoencoder."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.data.tokenizer import PAD
from flaxae.measures import text as text_metrics
from flaxae.measures.stats import Interval, bootstrap
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.samples import too_few

EDGES = (4, 8, 16, 32, 64, 128)  # upper edges of the length buckets, in tokens


def compare(
    ids: Int[np.ndarray, "B T"], made: Int[np.ndarray, "B T"]
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B 2"]]:
    """Return exact match of each row, and its matching tokens with the longer of both lengths."""
    longest = ((ids != PAD) | (made != PAD)).sum(1)
    matches = ((ids == made) & (ids != PAD)).sum(1)
    exact = np.all(ids == made, axis=1)
    return exact.astype(float), np.stack([matches, longest], axis=1).astype(float)


def measure(
    ids: Int[np.ndarray, "B T"],
    made: Int[np.ndarray, "B T"],
    lines: list[str],
    texts: list[str],
    *,
    python: bool,
    draws: int = 1000,
) -> dict[str, Any]:
    """Compare reconstructions with the original lines.

    Args:
        ids: ids of the lines with EOS, then padding.
        made: ids of the reconstructions.
        lines: the original lines.
        texts: the reconstructions.
        python: whether the lines are Python, so that validity is measured.
        draws: resamples of the bootstrap.

    Returns:
        exact_match (of strings), exact_match_ids, token_accuracy (matches / longer length), bleu
        and chrf (percent), edit_similarity, validity (of Python), `intervals` of all of them, and
        `by_length`.
    """
    exact_ids, tokens = compare(ids, made)
    exact = np.asarray([a == b for a, b in zip(texts, lines, strict=True)], float)
    found: dict[str, Interval] = {
        "exact_match": bootstrap(exact, draws=draws),
        "exact_match_ids": bootstrap(exact_ids, draws=draws),
        "token_accuracy": bootstrap(tokens, draws=draws),
        "bleu": bootstrap(text_metrics.bleu_rows(texts, lines), text_metrics.bleu, draws=draws),
        "chrf": bootstrap(text_metrics.chrf_rows(texts, lines), text_metrics.chrf, draws=draws),
        "edit_similarity": bootstrap(text_metrics.edit_similarity(texts, lines), draws=draws),
    }
    if python:
        found["validity"] = bootstrap(text_metrics.valid_mask(texts), draws=draws)
    return {
        **{name: x.value for name, x in found.items()},
        "intervals": {name: [x.low, x.high] for name, x in found.items()},
        "by_length": by_length(ids, exact, tokens, draws),
    }


def by_length(
    ids: Int[np.ndarray, "B T"],
    exact: Float[np.ndarray, " B"],
    tokens: Float[np.ndarray, "B 2"],
    draws: int,
) -> list[dict[str, Any]]:
    """Return exact match and token accuracy by the lines' number of tokens, EOS included."""
    lengths, out, low = (ids != PAD).sum(1), [], 1
    for high in (*EDGES, int(max(lengths.max(initial=0), EDGES[-1] + 1))):
        rows = (lengths >= low) & (lengths <= high)
        if rows.any():
            found = bootstrap(exact[rows], draws=draws)
            out.append(
                {
                    "tokens": [low, high],
                    "lines": int(rows.sum()),
                    "exact_match": found.value,
                    "exact_match_interval": [found.low, found.high],
                    "token_accuracy": bootstrap(tokens[rows], draws=1).value,
                }
            )
        low = high + 1
    return out


def reconstruction(
    codec: Codec,
    lines: list[str],
    codes: Float[np.ndarray, "B L Z"],
    *,
    python: bool,
    draws: int = 1000,
) -> dict[str, Any]:
    """Decode codes and `measure` the reconstructions.

    Args:
        codec: the model with its tokenizer.
        lines: the lines to compare with.
        codes: clean codes to decode, those of the lines or others.
        python: whether the lines are Python, so that validity is measured.
        draws: resamples of the bootstrap.
    """
    ids = codec.ids(lines)
    made = codec.generate(codes * np.float32(codec.scale))
    return measure(ids, made, lines, codec.texts(made), python=python, draws=draws)


def references(
    codec: Codec,
    lines: list[str],
    codes: Float[np.ndarray, "B L Z"],
    *,
    python: bool,
    most: int,
    draws: int = 1000,
) -> dict[str, Any] | str:
    """Measure reconstruction from other lines' codes and from zeros.

    Args:
        codec: the model with its tokenizer.
        lines: held-out lines.
        codes: their clean codes.
        python: whether the lines are Python, so that validity is measured.
        most: number of lines that are decoded.
        draws: resamples of the bootstrap.
    """
    if missing := too_few(len(lines), 2, "another line's code"):
        return missing
    lines = lines[:most]
    wrong = {
        "shuffled_codes": np.roll(codes, 1, axis=0)[: len(lines)],
        "zero_code": np.zeros_like(codes[: len(lines)]),
    }
    return {
        name: reconstruction(codec, lines, z, python=python, draws=draws)
        for name, z in wrong.items()
    }


def split_report(
    codec: Codec,
    text: Any,
    name: str,
    lines: list[str],
    codes: Float[np.ndarray, "B L Z"],
    *,
    python: bool,
    draws: int = 1000,
) -> dict[str, Any]:
    """Measure the reconstruction of one split, with the share of lines that training has seen.

    Args:
        codec: the model with its tokenizer.
        text: the run's texts (`data.hub.TextData`).
        name: name of the split.
        lines: lines of the split.
        codes: their clean codes.
        python: whether the lines are Python, so that validity is measured.
        draws: resamples of the bootstrap.
    """
    found = reconstruction(codec, lines, codes, python=python, draws=draws)
    row: dict[str, Any] = {"lines": len(lines)} | found
    if python:
        row["validity_of_real_lines"] = float(text_metrics.valid_mask(lines).mean())
    row["in_training_files"] = float(dict(text.overlap).get(name, 0.0))
    row["too_long_and_skipped"] = text.source(name).skipped
    return row
