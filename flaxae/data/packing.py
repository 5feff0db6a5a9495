"""Prompts with completions, packed into rows of one length when the data are prepared.

A row contains several examples one after the other. Segment ids separate them in attention, the
positions of each begin at 0, and only the tokens of completions are targets. A prefix that all
prompts share (a chat's system message, the same question) can be stored once per row: the states of
a causal model are the same there for every example, and so is the sum of the gradients.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxae.errors import ConfigError, require
from flaxae.nn.bias import SHARED


class Example(NamedTuple):
    """Token ids of a prompt and of its completion, which includes the end-of-text id."""

    prompt: list[int]
    completion: list[int]


class Packed(NamedTuple):
    """Packed rows.

    Attributes:
        arrays: "ids", "segment_ids" (0: padding, SHARED: common to all examples of the row; see
            `nn.bias.segment_bias`) and "positions", (N, T); "where", "targets" and
            "target_weight", (N, K): positions and the ids that they predict. K is the largest
            number of targets in a row; unused places have weight 0.
        kept: ascending indices of the examples that are used.
        skipped: number of examples longer than a row.
        shared: number of ids at the start of a row that belong to all of its examples.
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
    """Pack examples into rows: longest first, each into the fullest row that has room.

    Args:
        examples: token ids; a prompt has at least one.
        length: tokens per row, T.
        alone: whether each row contains one example, in the given order.
        shared: number of leading ids that all prompts share, less than the shortest prompt has;
            they are stored once per row.
        targets: K; 0: the number of targets in the fullest row.

    Raises:
        ConfigError: if no example fits, a row has more than K targets, or the prompts do not share
            these ids.
    """
    begin = list(examples[0].prompt[:shared]) if examples else []
    require(
        all(len(e.prompt) > shared and list(e.prompt[:shared]) == begin for e in examples),
        f"not all prompts begin with the same {shared} ids and contain more",
    )
    sizes = [len(e.prompt) + len(e.completion) for e in examples]
    kept = [i for i, size in enumerate(sizes) if size <= length]
    require(bool(sizes), "there are no examples: give more data")
    if not kept:
        raise ConfigError(
            f"none of {len(sizes)} examples fits data.max_length={length} tokens (the shortest has"
            f" {min(sizes)}): raise it"
        )
    own = [size - shared for size in sizes]
    rows = [[i] for i in kept] if alone else _best_fit(kept, own, length - shared)
    count = max(sum(len(examples[i].completion) for i in row) for row in rows)
    if targets and count > targets:
        raise ConfigError(f"a row has {count} target tokens, more than targets={targets}")
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
    """Return the examples of each row: longest first, each into the fullest row with room."""
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # free positions -> rows with exactly that many
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
    """Return the share of positions that contain a token."""
    return float((packed.arrays["segment_ids"] != 0).mean())
