"""Tests of the share of strings against a search in Python."""

import numpy as np

from flaxae.data import shared_strings
from flaxae.data.shared_strings import LENGTH, SharedStrings


def slow(train: list[bytes], data: bytes) -> int:
    known = {x[i : i + LENGTH] for x in train for i in range(len(x) - LENGTH + 1)}
    covered = set()
    for i in range(len(data) - LENGTH + 1):
        if data[i : i + LENGTH] in known:
            covered |= set(range(i, i + LENGTH))
    return len(covered)


def test_same_count_as_a_search_in_python(monkeypatch):
    rng = np.random.default_rng(0)
    train = [rng.integers(0, 256, n).astype(np.uint8).tobytes() for n in (300, 49, 50, 1000, 0)]
    held_out = [b"", b"x" * 49, train[2], train[3][:400] + train[0][100:], train[1]]
    for _ in range(5):
        parts = []
        for _ in range(6):
            source, size = train[rng.choice([0, 3])], int(rng.integers(20, 120))
            start = int(rng.integers(0, len(source) - size))
            parts += [source[start : start + size], rng.bytes(30)]
        held_out.append(b"".join(parts))
    expected = [slow(train, data) for data in held_out]
    assert expected[:5] == [0, 0, 50, 600, 0] and 0 < expected[5] < len(held_out[5])
    assert SharedStrings(train, held_out).covered == expected
    monkeypatch.setattr(shared_strings, "_CHUNK", 64)
    assert SharedStrings(train, held_out).covered == expected


def test_repeated_bytes_are_found_and_other_bytes_are_not():
    zeros = bytes(200)
    assert SharedStrings([zeros], [zeros[:60], b"\1" * 60]).covered == [60, 0]
    assert SharedStrings([], [zeros]).covered == [0]
    assert SharedStrings([zeros], []).covered == []
