"""Rows of tokens whose hidden states are read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from flaxae.errors import require


class TokenRows(NamedTuple):
    """Rows of tokens.

    Attributes:
        ids: token ids, (N, S).
        mask: 1 for real tokens, 0 for padding, (N, S).
        use: tokens whose states are used: neither padding nor special, (N, S).
    """

    ids: Int[np.ndarray, "N S"]
    mask: Float[np.ndarray, "N S"]
    use: Bool[np.ndarray, "N S"]


def token_rows(
    texts: Sequence[Sequence[int]],
    length: int,
    separator: int,
    special: Sequence[int] = (),
    *,
    skip: int = 0,
    packed: bool = True,
) -> TokenRows:
    """Cut token ids of texts into rows of one length.

    Args:
        texts: token ids of each text.
        length: tokens per row.
        separator: id that is put after each text.
        special: further ids whose states are not used.
        skip: number of first tokens of each row whose states are not used: models without a token
            of the beginning use the first one as a sink of attention, whose states are far larger.
        packed: whether a row continues with the next text, so that only the last row is padded.
            Otherwise each row is of one text, as models need whose tokens see the whole row; a text
            that is longer than a row has several.

    Returns:
        The rows, in the order of the texts.
    """
    parts = [np.asarray([*text, separator], np.int32) for text in texts]
    if packed:
        parts = [np.concatenate(parts)] if parts else []
    rows = [part[i : i + length] for part in parts for i in range(0, len(part), length)]
    require(
        max(map(len, rows), default=0) > skip,
        "there are no tokens to read states of: give more text",
    )
    ids = np.full((len(rows), length), separator, np.int32)
    mask = np.zeros((len(rows), length), np.float32)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    use = (mask > 0) & ~np.isin(ids, [separator, *special])
    use[:, :skip] = False
    return TokenRows(ids, mask, use)
