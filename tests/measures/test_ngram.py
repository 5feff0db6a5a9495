"""The n-gram model against counts made by hand."""

import numpy as np
import pytest

from flaxae.measures.ngram import NGram


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
