"""Prompts with completions, packed into rows of one length; done once, at preparation.

A row holds several examples one after the other. Their segment ids keep them apart in attention,
their positions begin at 0 each, and only the tokens of completions are targets. What all examples
begin with (a chat's system message, the same question) may stand in a row once: a causal model's
states there are the same in each example, and so is the gradient, summed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxae.errors import ConfigError, require
from flaxae.nn.bias import SHARED


class Example(NamedTuple):
    """Token ids of what is given, and of what is to be said, its end included."""

    prompt: list[int]
    completion: list[int]


class Packed(NamedTuple):
    """Rows, and what was left out.

    Attributes:
        arrays: "ids", "segment_ids" (0: padding, SHARED: of all examples of the row; see
            `nn.bias.segment_bias`) and "positions", (N, T); "where", "targets" and
            "target_weight", (N, K): which positions predict which ids. K is the most that a row
            has; the rest has weight 0.
        kept: indices of the examples that are used, in their order.
        skipped: how many were longer than a row.
        shared: how many ids at a row's start belong to all of its examples.
    """

    arrays: dict[str, np.ndarray]
    kept: list[int]
    skipped: int
    shared: int


def pack(
    examples: Sequence[Example],
    length: int,
    *,
    alone: bool = False,
    shared: int = 0,
    targets: int = 0,
) -> Packed:
    """Fills rows: the longest examples first, each into the fullest row that has room.

    Args:
        examples: token ids; a prompt has at least one.
        length: of a row, T.
        alone: one example a row, in their order.
        shared: ids that all prompts begin with, and have one more at least; they stand once a row.
        targets: K; 0: as many as the fullest row needs.

    Raises:
        ConfigError: no example fits, a row has more targets than K, or prompts share fewer ids.
    """
    begin = list(examples[0].prompt[:shared]) if examples else []
    require(
        all(len(e.prompt) > shared and list(e.prompt[:shared]) == begin for e in examples),
        f"not all prompts begin with the same {shared} ids and go on",
    )
    sizes = [len(e.prompt) + len(e.completion) for e in examples]
    kept = [i for i, size in enumerate(sizes) if size <= length]
    if not kept:
        raise ConfigError(
            f"none of {len(sizes)} examples fits data.max_length={length} tokens: raise it"
        )
    own = [size - shared for size in sizes]
    rows = [[i] for i in kept] if alone else _best_fit(kept, own, length - shared)
    count = max(sum(len(examples[i].completion) for i in row) for row in rows)
    if targets and count > targets:
        raise ConfigError(f"a row has {count} target tokens, there is room for {targets}")
    width = targets or count
    shape, wide = (len(rows), length), (len(rows), width)
    arrays: dict[str, Any] = {
        name: np.zeros(shape, np.int32) for name in ("ids", "segment_ids", "positions")
    }
    arrays |= {name: np.zeros(wide, np.int32) for name in ("where", "targets")}
    arrays["target_weight"] = np.zeros(wide, np.float32)
    for r, row in enumerate(rows):
        at, used = shared, 0
        arrays["ids"][r, :at], arrays["segment_ids"][r, :at] = begin, SHARED
        arrays["positions"][r, :at] = np.arange(at)
        for segment, i in enumerate(row, start=1):
            prompt, completion = examples[i]
            stop, n = at + own[i], len(completion)
            arrays["ids"][r, at:stop] = [*prompt[shared:], *completion]
            arrays["segment_ids"][r, at:stop] = segment
            arrays["positions"][r, at:stop] = np.arange(shared, sizes[i])
            first = at + len(prompt) - shared - 1  # the prompt's last token predicts the first
            arrays["where"][r, used : used + n] = np.arange(first, first + n)
            arrays["targets"][r, used : used + n] = completion
            arrays["target_weight"][r, used : used + n] = 1
            at, used = stop, used + n
    return Packed(arrays, kept, len(sizes) - len(kept), shared)


def _best_fit(kept: list[int], sizes: list[int], length: int) -> list[list[int]]:
    """Longest first, each into the fullest row that has room for it."""
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # room -> rows that have exactly that much
    for i in sorted(kept, key=lambda i: (-sizes[i], i)):
        room = next((r for r in range(sizes[i], length + 1) if open_rows.get(r)), None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, length
        else:
            row = open_rows[room].pop()
        rows[row].append(i)
        open_rows.setdefault(room - sizes[i], []).append(row)
    return [sorted(row) for row in rows]


def density(packed: Packed) -> float:
    """The share of positions that hold a token."""
    return float((packed.arrays["segment_ids"] != 0).mean())
