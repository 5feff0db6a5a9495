"""Samples that are real lines, copies of one, and noise."""

import types
from typing import Any

import numpy as np
import pytest

from flaxae.models.t5_vae.evaluation import samples, studies
from flaxae.models.t5_vae.evaluation.samples import Judge
from tests.models.t5_vae.tiny import Letters

N = 150


def words(rng, count):
    """A language: three syllables a line."""
    parts = ["ab", "cde", "fgh", "ijk", "lm"]
    return ["".join(rng.choice(parts, 3)) for _ in range(count)]


@pytest.fixture(scope="module")
def judge():
    rng = np.random.default_rng(0)
    return Judge(Letters(), words(rng, 400), words(rng, 200), python=True)


def test_real_lines_copies_and_noise(judge):
    rng = np.random.default_rng(1)
    noise = ["".join(rng.choice(list("abcdefghijklm"), 8)) for _ in range(N)]
    real, same, bad = (judge.measure(x, 50) for x in (words(rng, N), ["abcdeab"] * N, noise))
    # Forward perplexity cannot tell one good line from all of them; reverse can.
    assert same["forward_ppl"] < 1.5 * real["forward_ppl"] < bad["forward_ppl"]
    assert same["reverse_ppl"] > 2 * real["reverse_ppl"] < bad["reverse_ppl"]
    assert same["distinct"] == same["distinct_1"] == pytest.approx(1 / N)
    assert same["self_bleu"] == 0  # one word has no 4-grams
    assert real["in_training_lines"] > 0.5 and bad["in_training_lines"] == 0
    assert real["validity"] == 1 and real["n"] == N
    low, high = real["intervals"]["forward_ppl"]
    assert low < real["forward_ppl"] < high


def test_real_lines_are_not_those_that_reverse_perplexity_is_of(monkeypatch):
    seen = {}
    monkeypatch.setattr(samples, "Judge", lambda tokenizer, train, held, python: held)
    monkeypatch.setattr(
        samples, "study", lambda codec, held, codes, real, **_: seen.update(a=held, b=real)
    )
    lines = [f"line {i}" for i in range(9)]
    part: Any = types.SimpleNamespace(codes=None, tokenizer=None)
    studies.sample_study(part, [], part, lines, [], True, studies.Sizes())
    assert not set(seen["a"]) & set(seen["b"]) and len(seen["a"] + seen["b"]) == 9
    studies.sample_study(part, [], part, lines, ["x", "y"], True, studies.Sizes())
    assert seen["a"] == lines and sorted(seen["b"]) == ["x", "y"]
