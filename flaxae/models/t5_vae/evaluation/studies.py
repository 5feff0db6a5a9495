"""The parts of a report, each a function from a model and lines to numbers for JSON."""

import dataclasses
from typing import Any

import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Float, Int

from flaxae.data.labels import MISSING
from flaxae.lm.t5.modeling import PAD
from flaxae.models.t5_vae.evaluation import disentanglement, interpolation, probes, samples
from flaxae.models.t5_vae.evaluation.factors import KINDS, factors_of, kind
from flaxae.models.t5_vae.evaluation.likelihood import (
    Scorer,
    importance_weighted,
    posterior_collapse,
)
from flaxae.text_autoencoder import latent_measures
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.reconstruction import reconstruction

STOCHASTIC_ONLY = "n/a: the encoder is deterministic"
MIN_LINES = 10  # for a study that divides lines into classes


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of lines, samples and resamples that a report uses."""

    lines: int = 2000  # lines per split
    samples: int = 1000  # samples per prior
    codes: int = 6000  # training lines whose codes fit priors and probes
    references: int = 500  # lines decoded from wrong codes
    mmd: int = 1000  # codes for MMD^2
    pairs: int = 100  # interpolated pairs of lines
    steps: int = 9  # texts per interpolation
    bounded: int = 300  # lines for the importance-weighted bound
    importance: int = 16  # draws per posterior for the bound
    factors: int = 1500  # lines for disentanglement
    draws: int = 1000  # resamples per bootstrap


@dataclasses.dataclass
class EncodedLines:
    """Lines with their ids, codes and encoder states, which several parts need."""

    lines: list[str]
    ids: Int[np.ndarray, "B T"]
    codes: Float[np.ndarray, "B L Z"]
    log_variances: Float[np.ndarray, "B L Z"] | None
    pooled: Float[np.ndarray, "B D"]

    @property
    def flat(self) -> Float[np.ndarray, "B LZ"]:
        """The codes as vectors."""
        return rearrange(self.codes, "b l z -> b (l z)")


def too_few(lines: int, least: int, reason: str) -> str:
    """Return why a study is left out if there are fewer than `least` lines, else ""."""
    if lines >= least:
        return ""
    return f"n/a: {reason} needs at least {least} lines, and there {_count(lines)}"


def _count(lines: int) -> str:
    return "is 1" if lines == 1 else f"are {lines}"


def encode_lines(scorer: Scorer, codec: Codec, lines: list[str]) -> EncodedLines:
    """Encode lines once for all parts of a report."""
    ids = codec.ids(lines)
    return EncodedLines(lines, ids, *scorer.encode(ids))


def references(codec: Codec, dev: EncodedLines, python: bool, sizes: Sizes) -> dict[str, Any] | str:
    """Measure reconstruction from other lines' codes and from zeros."""
    if missing := too_few(len(dev.lines), 2, "another line's code"):
        return missing
    lines = dev.lines[: sizes.references]
    codes = {
        "shuffled_codes": np.roll(dev.codes, 1, axis=0)[: len(lines)],
        "zero_code": np.zeros_like(dev.codes[: len(lines)]),
    }
    return {
        name: reconstruction(codec, lines, z, python=python, draws=sizes.draws)
        for name, z in codes.items()
    }


def latent_study(codec: Codec, dev: EncodedLines, sizes: Sizes) -> dict[str, Any] | str:
    """Measure codes alone, without decoding them.

    Returns:
        mmd and mmd_with_noise with intervals, the null's 95 % quantile and permutation p; bits,
        isotropy, Gaussianity and spectrum; KL and mutual information, or the reason why there are
        none. The noise is that of training: the codes' noise, or draws of their posteriors.
    """
    if missing := too_few(len(dev.lines), 2, "the distribution of codes"):
        return missing
    codes = dev.flat.astype(np.float64)
    n, size = min(len(codes), sizes.mmd), codes.shape[1]
    noise = np.random.default_rng(1).normal(size=codes.shape)
    log_variances = None
    if dev.log_variances is not None:
        log_variances = rearrange(dev.log_variances, "b l z -> b (l z)").astype(np.float64)
    std = codec.sigma if log_variances is None else np.exp(0.5 * log_variances)
    clean = latent_measures.mmd_test(codes[:n])
    sampled = latent_measures.mmd_test((codes + std * noise)[:n])
    null = latent_measures.mmd_null_p95(n, size)
    variances = latent_measures.spectrum(codes)
    squared = latent_measures.squared_norm_over_dim(codes)
    out: dict[str, Any] = {
        "n": n,
        "sigma": codec.sigma,
        "mmd": clean["value"],
        "mmd_with_noise": sampled["value"],
        "null_p95": null,
        "mmd_over_null": clean["value"] / null,
        "mmd_with_noise_over_null": sampled["value"] / null,
        "mmd_p": clean["p"],
        "mmd_with_noise_p": sampled["p"],
        "std_mean": float(codes.std(0).mean()) if len(codes) > 1 else float("nan"),
        "squared_norm_over_dim": squared.value,
        "intervals": {
            "mmd": [clean["low"], clean["high"]],
            "mmd_with_noise": [sampled["low"], sampled["high"]],
            "squared_norm_over_dim": [squared.low, squared.high],
            **latent_measures.shape_intervals(codes),
        },
        "active_units": latent_measures.active_units(codes),
        "size": size,
        "isotropy": latent_measures.isotropy(codes),
        "gaussianity": latent_measures.gaussianity(codes),
        # The same measures of an equal number of draws of N(0, I) show the effect of few rows.
        "isotropy_of_normal": latent_measures.isotropy(noise),
        "gaussianity_of_normal": latent_measures.gaussianity(noise),
        "spectrum": variances.tolist(),
        "tokens_per_line": float((dev.ids != PAD).sum(1).mean()),
    }
    return out | _information(codes, log_variances, codec.sigma, variances, out["tokens_per_line"])


def _information(
    codes: Float[np.ndarray, "B LZ"],
    log_variances: Float[np.ndarray, "B LZ"] | None,
    sigma: float,
    spectrum: Float[np.ndarray, " LZ"],
    tokens: float,
) -> dict[str, Any]:
    """Return KL and mutual information of Gaussian posteriors, and the bits that codes carry."""
    if log_variances is not None:
        found = latent_measures.information(codes, log_variances)
        rate = found["kl"]["value"] / latent_measures.LN2
        return {"information": found, "bits": _bits(rate, tokens, "mean KL to the prior, the rate")}
    bits: Any = "n/a: without noise, the capacity of a real number has no bound"
    if sigma:
        meaning = "capacity of a Gaussian channel: variance of codes over variance of noise"
        bits = _bits(latent_measures.channel_bits(spectrum, sigma), tokens, meaning)
    return {"information": STOCHASTIC_ONLY, "bits": bits}


def _bits(bits: float, tokens: float, estimate: str) -> dict[str, Any]:
    """Return bits per line and per token, with the name of the estimate."""
    return {"per_line": bits, "per_token": bits / tokens, "estimate": estimate}


def likelihood_study(
    scorer: Scorer, codec: Codec, dev: EncodedLines, sizes: Sizes
) -> dict[str, Any] | str:
    """Measure teacher-forced losses, posterior collapse and, for Gaussian codes, the bound."""
    if missing := too_few(len(dev.lines), 2, "the comparison with another line's code"):
        return missing
    out = posterior_collapse(scorer, dev.ids, dev.codes * np.float32(codec.scale))
    if dev.log_variances is None:
        return out | {"importance_weighted": STOCHASTIC_ONLY}
    rows = slice(0, sizes.bounded)
    num_bytes = np.asarray([max(len(line.encode()), 1) for line in dev.lines[rows]])
    found = importance_weighted(
        scorer,
        dev.ids[rows],
        dev.codes[rows],
        dev.log_variances[rows],
        num_bytes,
        samples=sizes.importance,
    )
    return out | {"importance_weighted": found}


def sample_study(
    codec: Codec,
    train: list[str],
    encoded: EncodedLines,
    dev: list[str],
    test: list[str],
    python: bool,
    sizes: Sizes,
) -> dict[str, Any] | str:
    """Measure samples of all priors by a language model of the training lines.

    Real lines are measured like samples, for comparison. They must differ from the lines of reverse
    perplexity and come from other files, as neighbouring lines resemble each other.

    Args:
        codec: the model with its tokenizer.
        train: all training lines.
        encoded: some training lines with their codes, to fit priors to.
        dev: lines whose reverse perplexity is measured.
        test: real lines to compare with; if there are none, dev is split in two.
        python: whether the lines are Python.
        sizes: numbers of samples and resamples.
    """
    real, held_out = (test, dev) if test else (dev[::2], dev[1::2])
    if not test and (missing := too_few(len(dev), 2, "a comparison with real lines")):
        return missing
    shuffled = [real[i] for i in np.random.default_rng(0).permutation(len(real))]
    evaluator = samples.SampleEvaluator(codec.tokenizer, train, held_out, python)
    return samples.study(
        codec, evaluator, encoded.codes, shuffled, samples=sizes.samples, draws=sizes.draws
    )


def probe_study(
    task: Any,
    train: EncodedLines,
    dev: EncodedLines,
    labels: tuple[list[str], list[str]] | None,
    python: bool,
) -> dict[str, Any] | str:
    """Probe codes and pooled encoder states, of the trained and of an untrained model.

    Args:
        task: the task, which makes the untrained model.
        train: lines to train probes on.
        dev: lines to test probes on.
        labels: labels of train and dev if the corpus has some, "" for lines without a label, which
            are left out; by default the kind of statement for Python, else whether the text
            contains a digit.
        python: whether the lines are Python.
    """
    rows = [np.arange(len(part.lines)) for part in (train, dev)]
    if labels is not None:
        rows = [np.flatnonzero([x != MISSING for x in part]) for part in labels]
        given = [[part[i] for i in keep] for part, keep in zip(labels, rows, strict=True)]
        name, names = "label", np.unique(given[0]).tolist()
        index = {x: i for i, x in enumerate(names)}
        values = [np.asarray([index.get(x, -1) for x in part], int) for part in given]
    elif python:
        name, names = "kind of statement", list(KINDS)
        values = [np.asarray([kind(line) for line in part.lines]) for part in (train, dev)]
    else:
        name, names = "contains a digit", ["no", "yes"]
        values = [
            np.asarray([any(c.isdigit() for c in line) for line in part.lines], int)
            for part in (train, dev)
        ]
    for part, least, split in ((0, MIN_LINES, "training"), (1, 1, "dev")):
        if missing := too_few(len(values[part]), least, f"a probe ({split} lines with a label)"):
            return missing
    if len(np.unique(values[0])) < 2:
        return "n/a: all training lines have one label"
    untrained = Scorer(task.init(nnx.Rngs(1)), 0)
    parts = []
    for part, keep in zip((train, dev), rows, strict=True):
        random = untrained.encode(part.ids)
        parts.append(
            {
                "latent": part.flat[keep],
                "pooled_encoder": part.pooled[keep],
                "random_latent": random.mean.reshape(len(part.ids), -1)[keep],
                "random_pooled_encoder": random.pooled[keep],
            }
        )
    found = probes.study(parts[0], values[0], parts[1], values[1])
    return {"label": name, "names": names, **found}


def disentanglement_study(dev: EncodedLines, python: bool, sizes: Sizes) -> dict[str, Any] | str:
    """Measure the disentanglement of codes with respect to factors of their lines."""
    if missing := too_few(len(dev.lines), MIN_LINES, "disentanglement"):
        return missing
    rows = slice(0, sizes.factors)
    factors = factors_of(dev.lines[rows], python)
    if len(factors) < 2:
        return "n/a: the lines have fewer than two factors that vary"
    return disentanglement.measure(dev.flat[rows].astype(np.float64), factors)


def interpolation_study(
    codec: Codec, dev: EncodedLines, python: bool, sizes: Sizes
) -> dict[str, Any] | str:
    """Score interpolations between held-out lines."""
    if missing := too_few(len(dev.lines), 2, "an interpolation"):
        return missing
    return interpolation.study(
        codec,
        dev.lines,
        pairs=sizes.pairs,
        steps=sizes.steps,
        python=python,
        draws=sizes.draws,
    )
