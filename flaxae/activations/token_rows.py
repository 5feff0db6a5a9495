"""Rows of tokens whose hidden states are read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from einops import rearrange
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
) -> TokenRows:
    """Cut token ids of texts into rows of one length, without padding but in the last row.

    Args:
        texts: token ids of each text.
        length: tokens per row.
        separator: id that is put after each text.
        special: further ids whose states are not used.
        skip: number of first tokens of each row whose states are not used: models without a token
            of the beginning use the first one as a sink of attention, whose states are far larger.

    Returns:
        The rows, in the order of the texts.
    """
    parts = [np.asarray([*text, separator], np.int32) for text in texts]
    flat = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    require(len(flat) > skip, "there are no tokens to read states of: give more text")
    count = -(-len(flat) // length)
    ids = np.full(count * length, separator, np.int32)
    ids[: len(flat)] = flat
    mask = (np.arange(count * length) < len(flat)).astype(np.float32)
    ids, mask = (rearrange(x, "(N S) -> N S", S=length) for x in (ids, mask))
    use = (mask > 0) & ~np.isin(ids, [separator, *special])
    use[:, :skip] = False
    return TokenRows(ids, mask, use)
