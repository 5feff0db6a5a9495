"""Measures of a code as a space of texts: does it hold texts, or slots that any tokens fit into?

Each is a plain function of a `Codec`, for any text autoencoder.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from flaxae.data.tokenizer import PAD
from flaxae.measures.stats import Interval, bootstrap
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.reconstruction import compare
from flaxae.text_autoencoder.samples import subsample, too_few

ROUNDS = (0, 1, 2, 4, 8)  # rounds after which `pull_to_text` measures
NEIGHBOURS = 10
_FIRST_CHARACTER = 0x10000  # ids become characters above the surrogates, one each


def study(
    codec: Codec,
    ids: Int[np.ndarray, "B T"],
    codes: Float[np.ndarray, "B L Z"],
    *,
    most: int,
    draws: int = 1000,
) -> dict[str, Any] | str:
    """Measure copying, neighbourhoods and the effect of small edits on held-out lines.

    Args:
        codec: the model with its tokenizer.
        ids: ids of the lines with EOS, then padding.
        codes: their clean codes.
        most: number of lines that are used.
        draws: resamples of the bootstrap.

    Returns:
        "shuffled" (`copying`), "neighbours" and "edit" (`edit_moves`), each a sentence if there are
        too few lines; a sentence if there are fewer than two.
    """
    if missing := too_few(len(ids), 2, "the space of texts"):
        return missing
    rows = subsample(len(ids), most)
    return {
        "shuffled": copying(codec, ids[rows], draws=draws),
        "neighbours": neighbours(ids[rows], codes[rows], draws=draws),
        "edit": edit_moves(codec, ids[rows], codes[rows], draws=draws),
    }


def shuffled_ids(
    ids: Int[np.ndarray, "B T"], seed: int = 0
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "n T"]]:
    """Permute the ids within each line; the last one, EOS, stays the last.

    Args:
        ids: ids of the lines with EOS, then padding.
        seed: seed of the permutations.

    Returns:
        The rows that have another order, and their permuted ids, which differ from the original.
    """
    rng, rows, out = np.random.default_rng(seed), [], []
    for row, line in enumerate(ids):
        inner = int((line != PAD).sum()) - 1
        if inner < 2 or (line[:inner] == line[0]).all():
            continue
        made = line.copy()
        while (made == line).all():
            made[:inner] = rng.permutation(line[:inner])
        rows.append(row)
        out.append(made)
    shape = (len(out), ids.shape[1])
    return np.asarray(rows, int), np.asarray(out, ids.dtype).reshape(shape)


def copying(
    codec: Codec, ids: Int[np.ndarray, "B T"], *, seed: int = 0, draws: int = 1000
) -> dict[str, Any] | str:
    """Compare the reconstruction of lines with that of the same lines with shuffled ids.

    A code of token slots copies both; a code of texts only the real lines. Shuffled ids are encoded
    and compared as ids, since their text would be tokenized differently.

    Args:
        codec: the model with its tokenizer.
        ids: ids of the lines with EOS, then padding.
        seed: seed of the permutations.
        draws: resamples of the bootstrap.

    Returns:
        exact_match, exact_match_shuffled and their token accuracies, with `intervals`, over the
        lines that have another order; restored: how often shuffled ids are decoded to the real
        line, as a denoising autoencoder learns.
    """
    rows, shuffled = shuffled_ids(ids, seed)
    if missing := too_few(len(rows), 1, "shuffling (lines of two or more ids)"):
        return missing
    found: dict[str, Interval] = {}
    for suffix, given in (("", ids[rows]), ("_shuffled", shuffled)):
        codes = codec.encode_ids(given) * np.float32(codec.scale)
        made = codec.generate(codes)
        exact, tokens = compare(given, made)
        found[f"exact_match{suffix}"] = bootstrap(exact, draws=draws)
        found[f"token_accuracy{suffix}"] = bootstrap(tokens, draws=draws)
        if suffix:
            found["restored"] = bootstrap(compare(ids[rows], made)[0], draws=draws)
    return {"lines": len(rows), **_with_intervals(found)}


def rounds(
    codec: Codec,
    z: Float[np.ndarray, "B L Z"],
    count: int,
    *,
    noise: float = 0.0,
    seed: int = 0,
    assumed_noise: float | None = None,
) -> Iterator[list[str]]:
    """Decode codes, then encode and decode the texts again, round by round.

    Args:
        codec: the model with its tokenizer.
        z: codes as the decoder reads them.
        count: number of rounds.
        noise: standard deviation of the channel's noise on the codes of each round.
        seed: seed of the noise.
        assumed_noise: the noise that the decoder assumes in `z` (see `Codec.generate`).

    Yields:
        The texts after 0, 1 ... count rounds.
    """
    texts = codec.texts(codec.generate(z, assumed_noise=assumed_noise))
    yield texts
    for i in range(count):
        texts = codec.decode(codec.encode(texts), noise=noise, seed=seed + i)
        yield texts


def pull_to_text(
    codec: Codec,
    measure: Callable[[list[str], int], dict[str, Any]],
    z: Float[np.ndarray, "B L Z"],
    after: Sequence[int] = ROUNDS,
    *,
    noise: float = 0.0,
    assumed_noise: float | None = None,
    draws: int = 1000,
) -> list[dict[str, Any]]:
    """Measure texts of random codes after rounds of encoding and decoding.

    If the codes of texts attract, nonsense becomes text; a code of token slots copies nonsense.

    Args:
        codec: the model with its tokenizer.
        measure: measures texts, such as `SampleEvaluator.likeness`.
        z: codes as the decoder reads them, such as draws of N(0, I).
        after: numbers of rounds after which texts are measured, increasing.
        noise: standard deviation of the channel's noise on the codes of each round.
        assumed_noise: the noise that the decoder assumes in `z` (see `Codec.generate`).
        draws: resamples of the bootstrap.

    Returns:
        One row per number of rounds: "after", and the measures.
    """
    out = []
    made = rounds(codec, z, max(after), noise=noise, assumed_noise=assumed_noise)
    for i, texts in enumerate(made):
        if i in after:
            out.append({"after": i, "example": texts[0]} | measure(texts, draws))
    return out


def neighbours(
    ids: Int[np.ndarray, "B T"],
    codes: Float[np.ndarray, "B L Z"],
    k: int = NEIGHBOURS,
    *,
    draws: int = 1000,
) -> dict[str, Any] | str:
    """Measure how many neighbours by edit distance are also neighbours by code.

    Args:
        ids: ids of the lines with EOS, then padding.
        codes: their clean codes.
        k: number of neighbours.
        draws: resamples of the bootstrap over lines.

    Returns:
        recall: share of the k codes with the largest cosine whose lines are among the k nearest by
            edits of tokens; lines as near as the k-th count too.
        chance: the recall of random lines.
    """
    # A repeated line would be its own neighbour.
    rows = np.unique(ids, axis=0, return_index=True)[1]
    count = len(rows)
    if missing := too_few(count, k + 2, f"the recall at {k} of neighbours"):
        return missing
    edits = edit_distances(ids[rows]).astype(float)
    flat = rearrange(codes[rows], "b l z -> b (l z)").astype(np.float64)
    unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)
    cosines = unit @ unit.T
    np.fill_diagonal(edits, np.inf)
    np.fill_diagonal(cosines, -np.inf)
    near = edits <= np.partition(edits, k - 1, axis=1)[:, k - 1 : k]  # (n, n)
    chosen = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    found = {
        "recall": bootstrap(np.take_along_axis(near, chosen, axis=1).mean(1), draws=draws),
        "chance": bootstrap(near.sum(1) / (count - 1), draws=draws),
    }
    return {"lines": count, "k": k, **_with_intervals(found)}


def edit_distances(ids: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B B"]:
    """Return the Levenshtein distances of all pairs of rows, in tokens."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    texts = ["".join(chr(_FIRST_CHARACTER + int(i)) for i in row[row != PAD]) for row in ids]
    return np.asarray(cdist(texts, texts, scorer=Levenshtein.distance, dtype=np.int32))


def edited_ids(ids: Int[np.ndarray, "B T"], seed: int = 0) -> Int[np.ndarray, "B T"]:
    """Replace one token of each line, not EOS, by a token of another place of the lines.

    A line without tokens, or without a different token to choose, stays as it is.
    """
    rng, out = np.random.default_rng(seed), ids.copy()
    lengths = (ids != PAD).sum(1) - 1
    pool = np.concatenate([row[:n] for row, n in zip(ids, lengths, strict=True)])
    for row, length in zip(out, lengths, strict=True):
        if length < 1:
            continue
        at = rng.integers(length)
        others = pool[pool != row[at]]
        if len(others):
            row[at] = rng.choice(others)
    return out


def edit_moves(
    codec: Codec,
    ids: Int[np.ndarray, "B T"],
    codes: Float[np.ndarray, "B L Z"],
    *,
    seed: int = 0,
    draws: int = 1000,
) -> dict[str, Any] | str:
    """Measure how far the replacement of one token moves a code.

    Args:
        codec: the model with its tokenizer.
        ids: ids of the lines with EOS, then padding.
        codes: their clean codes.
        seed: seed of the edits, and of the pairs to compare with.
        draws: resamples of the bootstrap over lines.

    Returns:
        distance: mean distance between the codes of a line and of its edit, over the mean distance
            between two random lines.
        cosine, cosine_of_others: mean cosine of the codes of a line and of its edit, and of two
            random lines.
    """
    edited = edited_ids(ids, seed)
    rows = np.flatnonzero((edited != ids).any(1))
    if missing := too_few(len(rows), 2, "the effect of an edit"):
        return missing
    moved = rearrange(codec.encode_ids(edited[rows]), "b l z -> b (l z)").astype(np.float64)
    own = rearrange(codes[rows], "b l z -> b (l z)").astype(np.float64)
    other = _others(own, seed)
    steps = np.stack([np.linalg.norm(own - x, axis=1) for x in (moved, other)], axis=1)
    found = {
        "distance": bootstrap(steps, draws=draws),
        "cosine": bootstrap(_cosines(own, moved), draws=draws),
        "cosine_of_others": bootstrap(_cosines(own, other), draws=draws),
    }
    return {"lines": len(rows), **_with_intervals(found)}


def _others(codes: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n d"]:
    """Return the code of another random row for each row."""
    order = np.random.default_rng(seed).permutation(len(codes))
    out = np.empty_like(codes)
    out[order] = codes[np.roll(order, 1)]
    return out


def _cosines(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.maximum(norms, 1e-30)


def _with_intervals(found: dict[str, Interval]) -> dict[str, Any]:
    return {
        **{name: x.value for name, x in found.items()},
        "intervals": {name: [x.low, x.high] for name, x in found.items()},
    }
