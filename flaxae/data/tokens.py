"""Token ids of many texts in two arrays, which are prepared once and mapped from disk later."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from flaxae.data.text import digest
from flaxae.data.tokenizer import EOS, PAD, Tokenizer

MIN_CACHED = 50_000  # texts; encoding fewer takes less time than checking files
_CHUNK = 50_000  # texts encoded together; limits the memory of the encoder
_IDS, _STARTS = "ids.npy", "starts.npy"


class TokenTable:
    """Rows of token ids without EOS: 4 bytes per token and 8 per row, in memory or mapped.

    Attributes:
        ids: all rows one after the other, int32.
        starts: start of each row and end of the last, int64.
    """

    def __init__(self, ids: Int[np.ndarray, " N"], starts: np.ndarray):
        self.ids, self.starts = ids, starts

    @classmethod
    def of(cls, rows: "Sequence[Sequence[int]] | TokenTable") -> "TokenTable":
        """Make a table of lists of ids; a table is returned unchanged."""
        if isinstance(rows, TokenTable):
            return rows
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)), out=starts[1:])
        ids = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(starts[-1]))
        return cls(ids, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Number of ids in each row."""
        return np.diff(self.starts)

    def padded(self, rows: Int[np.ndarray, " N"], length: int) -> np.ndarray:
        """Return rows that end with EOS, truncated if necessary, and padded to one length.

        Args:
            rows: indices of the rows.
            length: length of the returned rows.

        Returns:
            int32 (len(rows), length).
        """
        starts = self.starts[rows]
        counts = np.minimum(self.starts[rows + 1] - starts, length - 1)
        columns = np.arange(length)
        inside = columns < counts[:, None]
        out = np.full((len(rows), length), PAD, np.int32)
        out[inside] = self.ids[(starts[:, None] + columns)[inside]]
        out[np.arange(len(rows)), counts] = EOS
        return out


def encode(tokenizer: Tokenizer, lines: Sequence[str], cache_dir: str = "") -> TokenTable:
    """Encode lines; the ids of at least 50,000 lines are written to and mapped from the cache.

    Args:
        tokenizer: the tokenizer.
        lines: texts.
        cache_dir: folder of the cache, whose folders are named by the hash of tokenizer and lines;
            "": none.
    """
    if not cache_dir or len(lines) < MIN_CACHED:
        return TokenTable.of(tokenizer.encode(lines))
    folder = os.path.join(cache_dir, "tokens", digest([tokenizer.fingerprint, *lines]))
    if not os.path.isdir(folder):
        _write(folder, tokenizer, lines)
    return TokenTable(
        np.load(os.path.join(folder, _IDS), mmap_mode="r", allow_pickle=False),
        np.load(os.path.join(folder, _STARTS), allow_pickle=False),
    )


def _write(folder: str, tokenizer: Tokenizer, lines: Sequence[str]) -> None:
    """Encode lines in chunks; the folder is renamed into place when it is complete."""
    parent = os.path.dirname(folder)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=parent, suffix=".tmp")
    try:
        tables = [
            TokenTable.of(tokenizer.encode(lines[i : i + _CHUNK]))
            for i in range(0, len(lines), _CHUNK)
        ]
        lengths = np.concatenate([table.lengths for table in tables])
        np.save(os.path.join(temporary, _IDS), np.concatenate([table.ids for table in tables]))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        np.save(os.path.join(temporary, _STARTS), starts)
        os.chmod(temporary, 0o755)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not os.path.isdir(folder):  # otherwise another process has just made the same folder
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
