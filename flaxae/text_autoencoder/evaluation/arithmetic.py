"""Arithmetic of codes: a - b + c, decoded, and its nearest text of a corpus.

In the study, a is b with one word replaced everywhere, and c is another text with the same word:
the result should be c with that word replaced. Copying c is the usual failure.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from flaxae.measures.stats import bootstrap
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.samples import too_few

TRIPLES = (
    ("return self.name", "self.name", "self.value"),
    ("import sys", "import os", "os.path"),
    ("x = 2", "x = 1", "y = 1"),
)
WORD = re.compile(r"\w+")
FREQUENT = 40  # words that are exchanged


class Analogy(NamedTuple):
    """Texts whose codes are added, and the expected result."""

    a: str
    b: str
    c: str
    target: str


def analogies(lines: list[str], count: int, most: int, codec: Codec) -> list[Analogy]:
    """Draw exchanges of a word in two texts, the same ones at each call.

    Args:
        lines: texts that contain the words.
        count: number of analogies; fewer if the texts have too few words in common.
        most: tokens per text, EOS included; longer texts are left out.
        codec: the model with its tokenizer.
    """
    holders: dict[str, list[str]] = {}
    for line in dict.fromkeys(lines):
        for word in dict.fromkeys(WORD.findall(line)):
            holders.setdefault(word, []).append(line)
    sizes = Counter({word: len(found) for word, found in holders.items() if len(found) > 1})
    words = [word for word, _ in sizes.most_common(FREQUENT)]
    if len(words) < 2:
        return []
    rng, out = np.random.default_rng(0), []
    for _ in range(2 * count):
        old, new = (words[i] for i in rng.choice(len(words), 2, replace=False))
        b, c = (holders[old][i] for i in rng.choice(len(holders[old]), 2, replace=False))
        a, target = (re.sub(rf"\b{re.escape(old)}\b", new, text) for text in (b, c))
        out.append(Analogy(a, b, c, target))
    lengths = [max(len(ids) for ids in codec.tokenizer.encode(list(row))) for row in out]
    return [row for row, n in zip(out, lengths, strict=True) if n < most][:count]


def study(codec: Codec, lines: list[str], *, count: int, draws: int = 1000) -> dict[str, Any] | str:
    """Measure how often the arithmetic of codes exchanges a word.

    Args:
        codec: the model with its tokenizer.
        lines: held-out texts.
        count: number of analogies.
        draws: resamples of the bootstrap over analogies.

    Returns:
        analogies: their number; `exact_match` of the decoded result and the target; `nearest`: how
        often the target is the text nearest to the result's code, by cosine, among all held-out
        texts and targets; `nearest_is_c`: how often c is; `reconstructed`: exact match of the
        target's own code, a bound for exact_match.
    """
    rows = analogies(lines, count, codec.max_length, codec)
    if missing := too_few(len(rows), 2, "arithmetic of codes (texts that share words)"):
        return missing
    za, zb, zc, target = (codec.encode(list(texts)) for texts in zip(*rows, strict=True))
    made = codec.on_space(za - zb + zc)
    wanted = [row.target for row in rows]
    corpus = list(dict.fromkeys([*wanted, *(row.c for row in rows), *lines]))
    near = [corpus[i[0]] for i in nearest(made, codec.encode(corpus), 1)]
    found = {
        "exact_match": [x == y for x, y in zip(codec.decode(made), wanted, strict=True)],
        "reconstructed": [x == y for x, y in zip(codec.decode(target), wanted, strict=True)],
        "nearest": [x == y for x, y in zip(near, wanted, strict=True)],
        "nearest_is_c": [x == row.c for x, row in zip(near, rows, strict=True)],
    }
    values = {k: bootstrap(np.asarray(x, float), draws=draws) for k, x in found.items()}
    return {"analogies": len(rows), **{k: x.as_dict() for k, x in values.items()}}


def examples(
    codec: Codec, lines: list[str], python: bool, corpus: list[str], k: int = 3
) -> list[dict[str, Any]]:
    """Return a few results: fixed texts for Python, else held-out ones.

    Args:
        codec: the model with its tokenizer.
        lines: held-out texts.
        python: whether they are lines of Python.
        corpus: texts among which the nearest ones are found.
        k: number of nearest texts.
    """
    triples = list(TRIPLES)
    if not python:
        triples = [row[:3] for row in analogies(lines, len(TRIPLES), codec.max_length, codec)]
    if not triples or not corpus:
        return []
    za, zb, zc = (codec.encode(list(texts)) for texts in zip(*triples, strict=True))
    made = codec.on_space(za - zb + zc)
    near = nearest(made, codec.encode(corpus), k)
    return [
        {"a": a, "b": b, "c": c, "text": text, "nearest": [corpus[i] for i in rows]}
        for (a, b, c), text, rows in zip(triples, codec.decode(made), near, strict=True)
    ]


def nearest(
    codes: Float[np.ndarray, "n L Z"], corpus: Float[np.ndarray, "m L Z"], k: int
) -> list[list[int]]:
    """Return the indices of the k codes of a corpus with the largest cosine to each code."""
    query, keys = (x.reshape(len(x), -1) for x in (codes, corpus))  # (n, D), (m, D)
    keys = keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
    order = np.argsort(-(query @ keys.T), axis=1, kind="stable")[:, :k]
    return [[int(i) for i in row] for row in order]
