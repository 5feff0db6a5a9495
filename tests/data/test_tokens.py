"""Tests of tables of token ids: padding, and the cache of large corpora."""

import numpy as np
import pytest

from flaxae.data import tokens as module
from flaxae.data.loader import TextSource
from flaxae.data.pretrained import byte_tokenizer
from flaxae.data.tokenizer import train
from flaxae.data.tokens import TokenTable, encode

ROWS = [[5, 6, 7], [], [8] * 9, [9]]


def test_rows_end_with_eos_and_are_truncated_and_padded():
    table = TokenTable.of(ROWS)
    assert len(table) == 4 and table.lengths.tolist() == [3, 0, 9, 1]
    assert TokenTable.of(table) is table
    np.testing.assert_array_equal(
        table.padded(np.array([2, 0, 1]), 4), [[8, 8, 8, 1], [5, 6, 7, 1], [1, 0, 0, 0]]
    )
    assert table.padded(np.array([], np.int64), 4).shape == (0, 4)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "MIN_CACHED", 10)
    monkeypatch.setattr(module, "_CHUNK", 7)


def test_large_corpora_are_encoded_once(tmp_path, small, monkeypatch):
    tokenizer, lines = byte_tokenizer(), [f"line {i}" * (i % 3) for i in range(20)]
    plain = encode(tokenizer, lines)
    made = encode(tokenizer, lines, str(tmp_path))
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    monkeypatch.setattr(type(tokenizer), "encode", lambda *_: pytest.fail("encoded again"))
    again = encode(tokenizer, lines, str(tmp_path))
    assert isinstance(again.ids, np.memmap)
    for table in (made, again):
        np.testing.assert_array_equal(table.ids, plain.ids)
        np.testing.assert_array_equal(table.starts, plain.starts)
    options = dict(batch_size=4, max_length=24, num_buckets=2, seed=0, train=True)
    sources = [TextSource(table, **options) for table in (plain, again)]
    assert sources[0].fingerprint == sources[1].fingerprint


def test_other_lines_are_encoded_and_small_corpora_not_cached(tmp_path, small):
    tokenizer = byte_tokenizer()
    lines = [str(i) for i in range(20)]
    for changed in (lines, lines[1:], lines[:5]):
        encode(tokenizer, changed, str(tmp_path))
    assert len(list((tmp_path / "tokens").iterdir())) == 2


def test_another_tokenizer_encodes_the_lines_again(tmp_path, small):
    lines = [f"line {i}" for i in range(20)]
    other = train(lines, 270)
    encode(byte_tokenizer(), lines, str(tmp_path))
    np.testing.assert_array_equal(encode(other, lines, str(tmp_path)).ids, encode(other, lines).ids)
