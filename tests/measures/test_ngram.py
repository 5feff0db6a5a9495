"""The n-gram model against counts made by hand and against a slow reference."""

import collections
import math
import pathlib

import numpy as np
import pytest

from flaxae.measures.ngram import FALLBACK, NGram, _modified


def test_bigram_probabilities_of_a_small_case():
    # Texts: a b | a c | a b (EOS = 1, V = 5). Bigrams: ^a 3, ab 2, ac 1, b$ 2, c$ 1.
    a, b, c = 2, 3, 4
    model = NGram([[a, b], [a, c], [a, b]], 5, order=2)
    # Two bigrams occur once and two occur twice: the discount is 2 / (2 + 2 * 2). Unigrams count
    # contexts: a, b and c have one each and EOS has two, so their discount is 3 / (3 + 2) = .6.
    top, bottom = 1 / 3, 0.6
    unigram = np.asarray([0, 2 - bottom, 1 - bottom, 1 - bottom, 1 - bottom]) / 5
    unigram = unigram + bottom * 4 / 5 / 5
    after_a = np.asarray([0, 0, 0, 2 - top, 1 - top]) / 3 + top * 2 / 3 * unigram
    at_start = top / 3 * unigram
    at_start[a] += (3 - top) / 3
    np.testing.assert_allclose(model.probabilities([]), at_start)
    np.testing.assert_allclose(model.probabilities([a]), after_a)
    nats, tokens = model.score([[a, b]])[0]
    expected = model.probabilities([])[a] * after_a[b] * model.probabilities([a, b])[1]
    assert tokens == 3 and nats == pytest.approx(-np.log(expected))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_are_positive_and_sum_to_one(order):
    rng = np.random.default_rng(0)
    texts = [rng.integers(2, 30, size=n).tolist() for n in rng.integers(1, 9, 50)]
    model = NGram(texts, 40, order)
    for context in ([], [5], texts[0][:3], [39, 38, 37], [*texts[1], 3]):
        found = model.probabilities(context)
        assert found.min() > 0 and found.sum() == pytest.approx(1)


def test_regular_texts_have_lower_perplexity_than_noise():
    rng = np.random.default_rng(1)
    cycle = [[2 + (start + i) % 20 for i in range(10)] for start in rng.integers(0, 20, 400)]
    noise = [rng.integers(2, 22, size=10).tolist() for _ in range(400)]
    model = NGram(cycle[:300], 24)
    assert model.perplexity(cycle[300:]).value < 1.85  # only the first id and the end are uncertain
    assert model.perplexity(noise).value > 20
    flat = NGram(noise[:300], 24, order=1).perplexity(noise[300:])
    assert flat.value == pytest.approx(20 ** (10 / 11) * 11 * 10 ** (-10 / 11), rel=0.02)
    found = model.perplexity(noise[:50])
    assert found.low < found.value < found.high


def test_the_order_is_reduced_to_fit_the_key_and_no_text_is_an_error():
    assert NGram([[5, 6, 7, 8]], 250_000, order=5).order == 3
    assert NGram([[], [1]], 4).probabilities([])[1] > 0.5  # an empty text is a single EOS
    with pytest.raises(ValueError, match="at least one text"):
        NGram([], 10)


def reference(train: list[int], text: list[int], order: int, num_tokens: int) -> float:
    """Return bits per id by modified Kneser-Ney, with dictionaries (Chen & Goodman, eq. 4.33)."""
    padded = [0] * (order - 1) + train
    tables = {}
    grams = [tuple(padded[i : i + order]) for i in range(len(train))]
    for n in range(order, 0, -1):
        counts = collections.Counter(grams)
        number = [sum(c == i for c in counts.values()) for i in range(1, 5)]
        if all(number):
            y = number[0] / (number[0] + 2 * number[1])
            d = [i - (i + 1) * y * number[i] / number[i - 1] for i in (1, 2, 3)]
            ok = all(0 < x <= i for i, x in enumerate(d, 1))
        if not (all(number) and ok):
            d = [0.5, 1.0, 1.5]
        tables[n] = counts, [0.0, *d]
        grams = [gram[1:] for gram in counts]

    def probability(gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / num_tokens
        counts, d = tables[len(gram)]
        after = [counts[(*gram[:-1], i)] for i in range(num_tokens)]
        lower = probability(gram[1:])
        if not sum(after):
            return lower
        own = counts[gram] - d[min(counts[gram], 3)]
        return (own + sum(d[min(c, 3)] for c in after) * lower) / sum(after)

    before = [0] * (order - 1) + text
    values = [probability(tuple(before[i : i + order])) for i in range(len(text))]
    return -sum(map(math.log2, values)) / len(values)


@pytest.mark.parametrize("num_tokens", [4, 12])
def test_modified_model_equals_a_slow_reference_at_every_order(num_tokens):
    rng = np.random.default_rng(num_tokens)
    train, text = ((rng.zipf(1.5, n) % num_tokens).tolist() for n in (400, 60))
    model = NGram([train], num_tokens, order=4, modified=True, ends=False)
    expected = [reference(train, text, n, num_tokens) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(model.bits(text), expected, rtol=1e-12)
    assert any(level.continuations.discounts != FALLBACK for level in model.levels)


@pytest.mark.parametrize("modified", [False, True])
def test_bytes_have_probabilities_that_sum_to_one(modified):
    rng = np.random.default_rng(0)
    data = np.frombuffer(pathlib.Path(__file__).read_bytes(), np.uint8)
    model = NGram([data], 256, order=7, modified=modified, ends=False)
    contexts = [[], [0], [255] * 6, *rng.integers(0, 256, (5, 6)).tolist()]
    contexts += [data[i : i + 6].tolist() for i in rng.integers(0, len(data) - 6, 10)]
    for context in contexts:
        found = model.probabilities(context)
        assert found.shape == (256,) and found.min() > 0 and found.sum() == pytest.approx(1)


def test_bits_of_each_order_are_those_of_a_model_of_that_order():
    rng = np.random.default_rng(2)
    train, text = rng.integers(97, 105, 3000).astype(np.uint8), rng.bytes(50)
    found = NGram([train], 256, order=7, ends=False).bits(list(text))
    for order in (1, 2, 4, 7):
        model = NGram([train], 256, order, ends=False)
        nats, tokens = model.score([list(text)])[0]
        assert tokens == 50 and model.bits(list(text))[-1] == pytest.approx(nats / 50 / np.log(2))
        assert model.bits(list(text))[-1] == pytest.approx(found[order - 1])


def test_modified_discounts_need_counts_from_one_to_four():
    assert _modified(np.asarray([1, 1, 2, 3])) == FALLBACK
    assert _modified(np.repeat([1, 2, 3, 4, 9], [6, 3, 2, 1, 1])) == pytest.approx((0.5, 1.0, 2.0))
    assert _modified(np.repeat([1, 2, 3, 4], [1, 2, 30, 1])) == FALLBACK  # a negative discount
    with pytest.raises(ValueError, match="at least one id"):
        NGram([[]], 256, ends=False)
