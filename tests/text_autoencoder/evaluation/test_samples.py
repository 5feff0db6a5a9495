"""Measures of samples that are real lines, copies of one line, and noise."""

import types
from typing import Any

import numpy as np
import pytest

from flaxae.text_autoencoder.evaluation import samples
from flaxae.text_autoencoder.evaluation.samples import SampleEvaluator
from tests.models.t5_vae.tiny import Letters

N = 150


def words(rng, count):
    """Return lines of a language with three syllables per line."""
    parts = ["ab", "cde", "fgh", "ijk", "lm"]
    return ["".join(rng.choice(parts, 3)) for _ in range(count)]


@pytest.fixture(scope="module")
def evaluator():
    rng = np.random.default_rng(0)
    return SampleEvaluator(Letters(), words(rng, 400), words(rng, 200), python=True)


def test_measures_of_real_lines_copies_and_noise(evaluator):
    rng = np.random.default_rng(1)
    noise = ["".join(rng.choice(list("abcdefghijklm"), 8)) for _ in range(N)]
    real, same, bad = (evaluator.measure(x, 50) for x in (words(rng, N), ["abcdeab"] * N, noise))
    # Only reverse perplexity is high for copies of a single good line.
    assert same["forward_ppl"] < 1.5 * real["forward_ppl"] < bad["forward_ppl"]
    assert same["reverse_ppl"] > 2 * real["reverse_ppl"] < bad["reverse_ppl"]
    assert same["distinct"] == same["distinct_1"] == pytest.approx(1 / N)
    assert same["self_bleu"] == 0  # one word has no 4-grams
    assert real["in_training_lines"] > 0.5 and bad["in_training_lines"] == 0
    assert real["validity"] == 1 and real["n"] == N
    low, high = real["intervals"]["forward_ppl"]
    assert low < real["forward_ppl"] < high


def test_codes_of_priors_are_scaled_as_the_decoder_expects_and_those_of_the_normal_are_not():
    decoded, noises = [], []
    codec: Any = types.SimpleNamespace(
        num_latents=2,
        dim=3,
        scale=1.5,
        sigma=0.4,
        lowest_sigma=0.1,
        reads_noise=True,
        generate=lambda z, assumed_noise: decoded.append(z) or noises.append(assumed_noise) or z,
        texts=lambda ids: ["x"] * len(ids),
    )
    evaluator: Any = types.SimpleNamespace(measure=lambda texts, draws: {"n": len(texts)})
    codes = np.random.default_rng(0).normal(2, 0.1, (10, 2, 3)).astype(np.float32)
    found = samples.study(codec, evaluator, codes, ["a", "b"], samples=400)
    normal, gaussian, again = decoded
    np.testing.assert_array_equal(again, normal)
    assert noises == [0.4, 0.1, 0.1]
    assert abs(normal.mean()) < 0.1 and normal.std() == pytest.approx(1, abs=0.1)
    assert gaussian.shape == (400, 2, 3) and gaussian.mean() == pytest.approx(3, abs=0.15)
    assert found["n"] == 400 and found["fitted_to"] == 10
    assert set(found["others"]) == {
        "gaussian",
        "lowest_noise",
        "real_lines",
    }  # too few codes for a mixture


def test_repetition_and_bits_of_known_texts(evaluator):
    found = evaluator.likeness(["abababab", "abcdefgh"], 20)
    assert found["repetition"] == 5 / 14  # 7 bigrams of which 2 are different, and 7 of 7
    nats = evaluator.model.score(Letters().encode(["abababab", "abcdefgh"]))[:, 0]
    assert found["bits"] == pytest.approx(nats.mean() / np.log(2))
    assert evaluator.likeness(["a"], 20)["bits"] > 0  # a text without bigrams


def test_real_lines_differ_from_the_lines_of_reverse_perplexity(monkeypatch):
    monkeypatch.setattr(samples, "SampleEvaluator", lambda tokenizer, train, lines, python: lines)
    lines = [f"line {i}" for i in range(9)]
    codec: Any = types.SimpleNamespace(tokenizer=None)
    held_out, real = samples.comparison(codec, [], lines, [], python=True)
    assert not set(held_out) & set(real) and len(held_out + real) == 9
    held_out, real = samples.comparison(codec, [], lines, ["x", "y"], python=True)
    assert held_out == lines and sorted(real) == ["x", "y"]
    assert "n/a" in samples.comparison(codec, [], ["a"], [], python=True)
