"""Texts of drawn codes, measured beside as many real lines.

Forward perplexity (samples under a language model of real lines) asks whether samples look real,
reverse perplexity (real lines under a language model of the samples) whether they cover what is
real (Zhao et al. 2018). The model is the n-gram model of `language_model`. A decoder that ignores
its code has good forward numbers: none of this means anything without exact match beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.measures import text as text_metrics
from flaxae.measures.ngram import NGram
from flaxae.measures.stats import bootstrap


class Judge:
    """What samples are measured against: a model of the training lines, and held-out lines."""

    def __init__(self, tokenizer: Any, train: Sequence[str], held_out: Sequence[str], python: bool):
        """Counts the training lines.

        Args:
            tokenizer: has encode and vocab_size.
            train: lines that the language model is of.
            held_out: lines that reverse perplexity is of.
            python: lines are Python's.
        """
        self.tokenizer, self.python = tokenizer, python
        self.known = set(train)
        self.model = NGram(tokenizer.encode(list(train)), tokenizer.vocab_size)
        self.held_out = tokenizer.encode(list(held_out))

    def measure(self, texts: list[str], draws: int = 1000) -> dict[str, Any]:
        """Measures of texts.

        Returns:
            forward_ppl, reverse_ppl (of tokens), self_bleu (percent) and, for Python, validity,
            with `intervals`; distinct (different texts / texts), distinct_1 and distinct_2 (word
            n-grams) and in_training_lines. The distinct numbers have no interval: a resample
            repeats rows, and they count repetitions. They compare at one number of texts.
        """
        ids = self.tokenizer.encode(texts)
        found = {
            "forward_ppl": self.model.perplexity(ids, draws),
            "reverse_ppl": NGram(ids, self.tokenizer.vocab_size).perplexity(self.held_out, draws),
            "self_bleu": bootstrap(
                text_metrics.self_bleu_rows(texts), text_metrics.bleu, draws=draws
            ),
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
    codec: Any,
    judge: Judge,
    codes: Float[np.ndarray, "n L Z"],
    real: list[str],
    *,
    samples: int,
    draws: int = 1000,
) -> dict[str, Any]:
    """Samples of N(0, I) and of priors fitted to codes, and the same measures of real lines.

    Args:
        codec: has generate, texts, scale, num_latents, dim.
        judge: of the corpus.
        codes: clean codes of training lines, which priors are fitted to.
        real: lines that neither the judge's model nor its held-out lines hold; as many as samples
            are taken, where there are so many.
        samples: how many of each.
        draws: of the bootstrap.

    Returns:
        `Judge.measure` of the N(0, I) samples with a few of them, and below `others` those of
        "gaussian", "gmm" (10 components) and "real_lines".
    """
    from flaxae.text_autoencoder.priors import fit

    shape = (samples, codec.num_latents, codec.dim)
    prior = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    # The decoder was trained on z + noise, which the objective pulls to N(0, I): draws go in
    # unscaled. Fitted priors are of clean codes, which are scaled.
    drawn = {"normal": prior}
    flat = codes.reshape(len(codes), codec.num_latents * codec.dim)
    for kind, least in (("gaussian", 2), ("gmm", 20)):
        if len(flat) >= least:
            drawn[kind] = fit(kind, flat).sample(samples).reshape(shape) * np.float32(codec.scale)
    rows = {}
    for name, z in drawn.items():
        texts = codec.texts(codec.generate(z))
        rows[name] = judge.measure(texts, draws) | {"examples": texts[:12]}
    rows["real_lines"] = judge.measure(real[:samples], draws)
    return rows.pop("normal") | {"fitted_to": len(flat), "others": rows}
