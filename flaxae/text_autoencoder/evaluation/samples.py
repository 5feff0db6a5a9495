"""Texts of sampled codes, compared with an equal number of real lines.

Forward perplexity (of samples under a language model of real lines) shows how realistic samples
are. Reverse perplexity (of real lines under a language model of samples) shows how much of the real
distribution they cover (Zhao et al. 2018). The language model is `measures.ngram`. A decoder that
ignores its code has a good forward perplexity: read these numbers only together with exact match.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.measures import text as text_metrics
from flaxae.measures.ngram import NGram
from flaxae.measures.stats import bootstrap
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.priors import fit
from flaxae.text_autoencoder.samples import too_few


class SampleEvaluator:
    """Measures of samples against an n-gram model of the training lines and held-out lines."""

    def __init__(self, tokenizer: Any, train: Sequence[str], held_out: Sequence[str], python: bool):
        """Count the n-grams of the training lines.

        Args:
            tokenizer: the model's tokenizer.
            train: lines for the language model of forward perplexity.
            held_out: lines whose reverse perplexity is measured.
            python: whether the lines are Python, so that validity is measured.
        """
        self.tokenizer, self.python = tokenizer, python
        self.known = set(train)
        self.model = NGram(tokenizer.encode(list(train)), tokenizer.vocab_size)
        self.held_out = tokenizer.encode(list(held_out))

    def measure(self, texts: list[str], draws: int = 1000) -> dict[str, Any]:
        """Measure texts.

        Args:
            texts: the samples.
            draws: resamples of the bootstrap.

        Returns:
            forward_ppl, reverse_ppl (per token), self_bleu (percent) and, for Python, validity,
            with `intervals`; distinct (different texts / texts), distinct_1 and distinct_2 (word
            n-grams) and in_training_lines. The distinct numbers count repetitions, so they have no
            bootstrap interval, and compare only for equal numbers of texts.
        """
        ids = self.tokenizer.encode(texts)
        # A single text has no others to be compared with.
        rows = text_metrics.self_bleu_rows(texts) if len(texts) > 1 else []
        found = {
            "forward_ppl": self.model.perplexity(ids, draws),
            "reverse_ppl": NGram(ids, self.tokenizer.vocab_size).perplexity(self.held_out, draws),
            "self_bleu": bootstrap(rows, text_metrics.bleu, draws=draws),
        }
        if self.python:
            found["validity"] = bootstrap(text_metrics.valid_mask(texts), draws=draws)
        return {
            "n": len(texts),
            **{name: x.value for name, x in found.items()},
            "intervals": {name: [x.low, x.high] for name, x in found.items()},
            "distinct": len(set(texts)) / len(texts),
            "distinct_1": text_metrics.distinct_n(texts, 1),
            "distinct_2": text_metrics.distinct_n(texts, 2),
            "in_training_lines": float(np.mean([text in self.known for text in texts])),
        }


def study(
    codec: Codec,
    evaluator: SampleEvaluator,
    codes: Float[np.ndarray, "n L Z"],
    real: list[str],
    *,
    samples: int,
    draws: int = 1000,
) -> dict[str, Any]:
    """Measure samples of N(0, I) and of priors fitted to codes, and real lines for comparison.

    Args:
        codec: the model with its tokenizer.
        evaluator: the corpus's evaluator.
        codes: clean codes of training lines, to fit priors to.
        real: real lines that the evaluator has not seen; up to `samples` of them are measured.
        samples: number of samples per prior.
        draws: resamples of the bootstrap.

    Returns:
        `SampleEvaluator.measure` of the N(0, I) samples with a few examples, and in `others` those
        of "gaussian", "gmm" (10 components) and "real_lines".
    """
    shape = (samples, codec.num_latents, codec.dim)
    prior = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    # The decoder was trained on z + noise, whose distribution the objective pulls to N(0, I): these
    # draws are not scaled. Priors are fitted to clean codes, which are scaled.
    drawn = {"normal": prior}
    flat = codes.reshape(len(codes), codec.num_latents * codec.dim)
    for kind, min_codes in (("gaussian", 2), ("gmm", 20)):
        if len(flat) >= min_codes:
            drawn[kind] = fit(kind, flat).sample(samples).reshape(shape) * np.float32(codec.scale)
    rows = {}
    for name, z in drawn.items():
        texts = codec.texts(codec.generate(z))
        rows[name] = evaluator.measure(texts, draws) | {"examples": texts[:12]}
    rows["real_lines"] = evaluator.measure(real[:samples], draws)
    return rows.pop("normal") | {"fitted_to": len(flat), "others": rows}


def held_out_study(
    codec: Codec,
    train: list[str],
    codes: Float[np.ndarray, "n L Z"],
    dev: list[str],
    test: list[str],
    *,
    python: bool,
    samples: int,
    draws: int = 1000,
) -> dict[str, Any] | str:
    """Measure samples of all priors by a language model of the training lines.

    Real lines are measured like samples, for comparison. They must differ from the lines of reverse
    perplexity and come from other files, as neighbouring lines resemble each other.

    Args:
        codec: the model with its tokenizer.
        train: all training lines.
        codes: clean codes of some training lines, to fit priors to.
        dev: lines whose reverse perplexity is measured.
        test: real lines to compare with; if there are none, dev is split in two.
        python: whether the lines are Python.
        samples: number of samples per prior.
        draws: resamples of the bootstrap.
    """
    real, held_out = (test, dev) if test else (dev[::2], dev[1::2])
    if not test and (missing := too_few(len(dev), 2, "a comparison with real lines")):
        return missing
    shuffled = [real[i] for i in np.random.default_rng(0).permutation(len(real))]
    evaluator = SampleEvaluator(codec.tokenizer, train, held_out, python)
    return study(codec, evaluator, codes, shuffled, samples=samples, draws=draws)
