"""The bytes of held-out files that occur in training files, in strings of at least 50 bytes."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt64

LENGTH = 50  # bytes of a string; shorter ones also occur in unrelated texts
_BITS = 24  # of a hash, for a table of the hashes that may be needed
_CHUNK = 1 << 22  # bytes that are hashed at once
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class SharedStrings:
    """Number of bytes of each held-out file that lie in LENGTH-byte strings of training files.

    Attributes:
        covered: bytes of each held-out file.
    """

    def __init__(self, train: Sequence[bytes], held_out: Sequence[bytes]):
        """Compare files by 64-bit hashes of their strings.

        Args:
            train: contents of the training files.
            held_out: contents of the held-out files.
        """
        own = [np.concatenate(list(_hashes(data))) for data in held_out]
        wanted = np.zeros(1 << _BITS, bool)
        for hashes in own:
            wanted[hashes >> np.uint64(64 - _BITS)] = True
        # Few training strings pass this table, so that those of large corpora need no memory.
        kept = [np.zeros(0, np.uint64)]
        for data in train:
            for hashes in _hashes(data):
                kept.append(hashes[wanted[hashes >> np.uint64(64 - _BITS)]])
        known = np.sort(np.concatenate(kept))
        self.covered = [_covered(_contains(known, hashes)) for hashes in own]


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return True for each value that is in a sorted array."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    at = np.searchsorted(ordered, values)
    return ordered[np.minimum(at, len(ordered) - 1)] == values


def _covered(found: np.ndarray) -> int:
    """Return the number of bytes in at least one found string, given by its first byte."""
    change = np.zeros(len(found) + LENGTH, np.int32)
    change[: len(found)] += found
    change[LENGTH:] -= found
    return int((np.cumsum(change) > 0).sum())


def _hashes(data: bytes) -> Iterator[UInt64[np.ndarray, " n"]]:
    """Yield the hashes of all strings of LENGTH bytes of a file, in parts."""
    for start in range(0, max(len(data) - LENGTH + 1, 1), _CHUNK):
        part = np.frombuffer(data[start : start + _CHUNK + LENGTH - 1], np.uint8)
        yield _hash(part.astype(np.uint64) + np.uint64(1), LENGTH)


def _hash(values: UInt64[np.ndarray, " n"], length: int) -> UInt64[np.ndarray, " m"]:
    """Return the hash of each string of `length` values; none if there are fewer values."""
    if length == 1:
        return values
    half = length // 2
    halves = _hash(values, half)
    out = _combine(halves[: max(len(values) - 2 * half + 1, 0)], halves[half:])
    if length % 2:
        out = _combine(out[: max(len(values) - length + 1, 0)], values[length - 1 :])
    return out


def _combine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the hash of two neighbours, by an odd factor and a mix of high and low bits."""
    out = first * _FACTOR
    out ^= out >> np.uint64(29)
    out += second
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(32)
    return out
