"""Texts of sampled codes, compared with an equal number of real lines.

Forward perplexity (of samples under a language model of real lines) shows how realistic samples
are. Reverse perplexity (of real lines under a language model of samples) shows how much of the real
distribution they cover (Zhao et al. 2018). The language model is `measures.ngram`. A decoder that
ignores its code has a good forward perplexity: read these numbers only together with exact match.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.measures import text as text_metrics
from flaxae.measures.ngram import NGram
from flaxae.measures.stats import bootstrap, ratio
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation.text_space import pull_to_text
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
            The numbers of `likeness`, further reverse_ppl (per token) and self_bleu (percent) with
            their `intervals`; distinct (different texts / texts), distinct_1 and in_training_lines.
            The distinct numbers count repetitions among texts, so they have no bootstrap interval,
            and compare only for equal numbers of texts.
        """
        ids = self.tokenizer.encode(texts)
        # A single text has no others to be compared with.
        rows = text_metrics.self_bleu_rows(texts) if len(texts) > 1 else []
        found = {
            "reverse_ppl": NGram(ids, self.tokenizer.vocab_size).perplexity(self.held_out, draws),
            "self_bleu": bootstrap(rows, text_metrics.bleu, draws=draws),
        }
        out = self.likeness(texts, draws)
        intervals = out.pop("intervals") | {name: [x.low, x.high] for name, x in found.items()}
        return {
            "n": len(texts),
            **out,
            **{name: x.value for name, x in found.items()},
            "intervals": intervals,
            "distinct": len(set(texts)) / len(texts),
            "distinct_1": text_metrics.distinct_n(texts, 1),
            "in_training_lines": float(np.mean([text in self.known for text in texts])),
        }

    def likeness(self, texts: list[str], draws: int = 1000) -> dict[str, Any]:
        """Measure how much texts resemble real lines, and how much they repeat themselves.

        Args:
            texts: the texts.
            draws: resamples of the bootstrap.

        Returns:
            forward_ppl (per token) and bits (per text) under the n-gram model, repetition (share of
            the bigrams of ids that occurred earlier in the same text) and, for Python, validity,
            with `intervals`; distinct_2 (different bigrams of words / all). Validity alone is
            fooled by degenerate texts such as "+ + + +", which parse.
        """
        ids = self.tokenizer.encode(texts)
        scores = self.model.score(ids)
        found = {
            "forward_ppl": bootstrap(scores, lambda sums: np.exp(ratio(sums)), draws=draws),
            "bits": bootstrap(scores[:, 0] / np.log(2), draws=draws),
            "repetition": bootstrap(text_metrics.repeated_bigrams(ids), draws=draws),
        }
        if self.python:
            found["validity"] = bootstrap(text_metrics.valid_mask(texts), draws=draws)
        return {
            **{name: x.value for name, x in found.items()},
            "intervals": {name: [x.low, x.high] for name, x in found.items()},
            "distinct_2": text_metrics.distinct_n(texts, 2),
        }


def study(
    codec: Codec,
    evaluator: SampleEvaluator,
    codes: Float[np.ndarray, "n L Z"],
    real: list[str],
    *,
    samples: int,
    pulled: int = 0,
    draws: int = 1000,
) -> dict[str, Any]:
    """Measure samples of N(0, I) and of priors fitted to codes, and real lines for comparison.

    Args:
        codec: the model with its tokenizer.
        evaluator: the corpus's evaluator.
        codes: clean codes of training lines, to fit priors to.
        real: real lines that the evaluator has not seen; up to `samples` of them are measured.
        samples: number of samples per prior.
        pulled: number of N(0, I) samples that are decoded and encoded repeatedly; 0: none.
        draws: resamples of the bootstrap.

    Returns:
        `SampleEvaluator.measure` of the N(0, I) samples with a few examples, in `others` those of
        "gaussian", "gmm" (10 components) and "real_lines", and in `pull` the measures of
        `text_space.pull_to_text`. A decoder that reads the noise assumes the largest of training
        in draws of N(0, I), as in `TextAutoencoder.sample`, and the smallest in those of fitted
        priors; "lowest_noise" in `others` are draws of N(0, I) in which it assumes the smallest.
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
    if codec.reads_noise:
        drawn["lowest_noise"] = prior
    rows = {}
    for name, z in drawn.items():
        assumed = codec.sigma if name == "normal" else codec.lowest_sigma
        texts = codec.texts(codec.generate(z, assumed_noise=assumed))
        rows[name] = evaluator.measure(texts, draws) | {"examples": texts[:12]}
    rows["real_lines"] = evaluator.measure(real[:samples], draws)
    out = rows.pop("normal") | {"fitted_to": len(flat), "others": rows}
    if pulled:
        pull = pull_to_text(
            codec, evaluator.likeness, prior[:pulled], assumed_noise=codec.sigma, draws=draws
        )
        out["pull"] = {"n": len(prior[:pulled]), "rounds": pull}
    return out


def comparison(
    codec: Codec, train: list[str], dev: list[str], test: list[str], *, python: bool
) -> tuple[SampleEvaluator, list[str]] | str:
    """Return an evaluator of samples, and real lines to measure like samples.

    The real lines must differ from the lines of reverse perplexity and come from other files, as
    neighbouring lines resemble each other.

    Args:
        codec: the model with its tokenizer.
        train: all training lines.
        dev: lines whose reverse perplexity is measured.
        test: real lines to compare with; if there are none, dev is split in two.
        python: whether the lines are Python.

    Returns:
        Both, or a sentence if there are too few lines.
    """
    real, held_out = (test, dev) if test else (dev[::2], dev[1::2])
    if not test and (missing := too_few(len(dev), 2, "a comparison with real lines")):
        return missing
    shuffled = [real[i] for i in np.random.default_rng(0).permutation(len(real))]
    return SampleEvaluator(codec.tokenizer, train, held_out, python), shuffled


def study_or_reason(
    codec: Codec,
    compared: tuple[SampleEvaluator, list[str]] | str,
    codes: Float[np.ndarray, "n L Z"],
    *,
    samples: int,
    pulled: int,
    draws: int = 1000,
) -> dict[str, Any] | str:
    """Return the `study` with what `comparison` returned, or the reason why there is none."""
    if isinstance(compared, str):
        return compared
    evaluator, real = compared
    return study(codec, evaluator, codes, real, samples=samples, pulled=pulled, draws=draws)


def likeness_of(
    compared: tuple[SampleEvaluator, list[str]] | str, draws: int = 1000
) -> Callable[[list[str]], dict[str, Any]] | None:
    """Return `SampleEvaluator.likeness` of what `comparison` returned; None if it is a reason."""
    if isinstance(compared, str):
        return None
    return partial(compared[0].likeness, draws=draws)
