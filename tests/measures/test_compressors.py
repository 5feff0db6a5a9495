"""Tests of the compressors' bits per byte."""

import bz2
import dataclasses
import importlib.util

import numpy as np
import pytest

from flaxae.errors import ConfigError
from flaxae.measures.compressors import BZIP2, COMPRESSORS, GZIP, PPMD, PRIMED, XZ, ZPAQ

WORDS = [b"alpha", b"beta", b"gamma", b"delta", b"epsilon", b"zeta", b"eta", b"theta"]


def text(seed: int, words: int) -> bytes:
    return b" ".join(WORDS[i] for i in np.random.default_rng(seed).integers(0, 8, words))


@pytest.mark.parametrize("each", COMPRESSORS, ids=lambda each: each.name)
def test_bits_lie_between_the_entropy_and_eight(each):
    if each.missing:
        pytest.skip(each.missing)
    data = text(0, 8000)
    found = each.bits_per_byte(data)
    entropy = 3 * 8000 / len(data)  # three bits per word
    assert entropy < found < 2 * entropy
    noise = np.random.default_rng(0).bytes(20_000)
    assert 8 <= each.bits_per_byte(noise) < 8.3


@pytest.mark.parametrize("each", PRIMED, ids=lambda each: each.name)
def test_primed_text_costs_less(each):
    if each.missing:
        pytest.skip(each.missing)
    train, held_out = text(0, 4000), text(1, 100)
    alone, primed = each.bits_per_byte(held_out), each.bits_per_byte(held_out, train)
    assert primed < 0.7 * alone
    assert primed == 8 * (each.size(train + held_out) - each.size(train)) / len(held_out)


@pytest.mark.parametrize("each", PRIMED, ids=lambda each: each.name)
def test_random_letters_cost_their_entropy_after_any_text(each):
    if each.missing:
        pytest.skip(each.missing)
    letters = np.random.default_rng(2).integers(97, 123, 20_000).astype(np.uint8).tobytes()
    assert each.bits_per_byte(letters, text(0, 20_000)) > np.log2(26) - 0.01


def test_sizes_are_those_of_whole_files():
    data = text(0, 500)
    assert BZIP2.bits_per_byte(data) == 8 * len(bz2.compress(data, 9)) / len(data)
    assert GZIP.size(b"") == 20 and XZ.size(b"") == 32  # headers and checks


def test_text_out_of_reach_and_missing_package_are_errors():
    with pytest.raises(ConfigError, match=r"gzip -9 cannot be primed with 32,768 bytes"):
        GZIP.bits_per_byte(b"x", bytes(1 << 15))
    missing = dataclasses.replace(PPMD, package="nothing_such")
    assert missing.missing == "not installed: pip install nothing_such"
    with pytest.raises(ConfigError, match="order 32 is not installed: pip install nothing_such"):
        missing.bits_per_byte(b"x")
    for each in (PPMD, ZPAQ):
        assert bool(each.missing) == (importlib.util.find_spec(each.package) is None)
