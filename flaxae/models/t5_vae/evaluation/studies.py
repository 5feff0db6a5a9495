"""The parts of a report: each takes the run's pieces and gives numbers for JSON."""

import dataclasses
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from flaxae.lm.t5.modeling import PAD
from flaxae.models.t5_vae.evaluation import disentanglement, interpolation, latent, probes, samples
from flaxae.models.t5_vae.evaluation.factors import KINDS, factors_of, kind
from flaxae.models.t5_vae.evaluation.likelihood import Scorer, collapse, importance_weighted
from flaxae.models.t5_vae.evaluation.reconstruction import reconstruction
from flaxae.text_autoencoder.codec import Codec

STOCHASTIC_ONLY = "n/a: the encoder is deterministic"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything a report looks at."""

    lines: int = 2000  # of each split
    samples: int = 1000  # from each prior
    codes: int = 6000  # training lines whose codes priors and probes are fitted to
    references: int = 500  # lines that are decoded from another's code
    mmd: int = 1000
    pairs: int = 100  # ways between two lines
    steps: int = 9  # texts on a way
    bounded: int = 300  # lines of the importance-weighted bound
    importance: int = 16  # draws from a line's posterior
    factors: int = 1500  # lines that disentanglement is measured on
    draws: int = 1000  # of each bootstrap


@dataclasses.dataclass
class Held:
    """Held-out lines with everything that several parts need of them."""

    lines: list[str]
    ids: Int[np.ndarray, "B T"]
    codes: Float[np.ndarray, "B L Z"]
    log_variances: Float[np.ndarray, "B L Z"] | None
    pooled: Float[np.ndarray, "B D"]

    @property
    def flat(self) -> Float[np.ndarray, "B LZ"]:
        rows, latents, dim = self.codes.shape
        return self.codes.reshape(rows, latents * dim)  # -1 fails where there are no rows


def held(scorer: Scorer, codec: Codec, lines: list[str]) -> Held:
    """Encodes lines."""
    ids = codec.ids(lines)
    return Held(lines, ids, *scorer.encoded(ids))


def references(codec: Codec, dev: Held, python: bool, sizes: Sizes) -> dict[str, Any]:
    """Reconstruction from another line's code, and from none."""
    lines = dev.lines[: sizes.references]
    codes = {
        "shuffled_codes": np.roll(dev.codes, 1, axis=0)[: len(lines)],
        "zero_code": np.zeros_like(dev.codes[: len(lines)]),
    }
    return {
        name: reconstruction(codec, lines, z, python=python, draws=sizes.draws)
        for name, z in codes.items()
    }


def latent_study(codec: Codec, dev: Held, sizes: Sizes) -> dict[str, Any]:
    """Everything about codes that their numbers alone tell.

    Returns:
        mmd and mmd_with_noise (what the decoder was trained on: codes with their noise, or draws of
        their posteriors) with intervals, the null's 95 % point and permutation p; bits, shape and
        spectrum; KL and mutual information, or why not.
    """
    codes = dev.flat.astype(np.float64)
    n, size = min(len(codes), sizes.mmd), codes.shape[1]
    noise = np.random.default_rng(1).normal(size=codes.shape)
    if dev.log_variances is None:
        noisy = codes + codec.sigma * noise
    else:
        log_variances = dev.log_variances.reshape(codes.shape).astype(np.float64)
        noisy = codes + np.exp(0.5 * log_variances) * noise
    clean = latent.mmd_test(codes[:n])
    sampled = latent.mmd_test(noisy[:n])
    null = latent.mmd_null_p95(n, size)
    variances = latent.spectrum(codes)
    squared = latent.squared_norm_over_dim(codes)
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
        "std_mean": float(codes.std(0).mean()),
        "squared_norm_over_dim": squared.value,
        "intervals": {
            "mmd": [clean["low"], clean["high"]],
            "mmd_with_noise": [sampled["low"], sampled["high"]],
            "squared_norm_over_dim": [squared.low, squared.high],
            **latent.shape_intervals(codes),
        },
        "active_units": latent.active_units(codes),
        "size": size,
        "isotropy": latent.isotropy(codes),
        "gaussianity": latent.gaussianity(codes),
        # The same measures of as many draws of N(0, I): what few rows alone do to them.
        "isotropy_of_normal": latent.isotropy(noise),
        "gaussianity_of_normal": latent.gaussianity(noise),
        "spectrum": variances.tolist(),
        "tokens_per_line": float((dev.ids != PAD).sum(1).mean()),
    }
    if dev.log_variances is None:
        out["information"] = STOCHASTIC_ONLY
        out["bits"] = "n/a: without noise a real number carries any number of bits"
        if codec.sigma:
            capacity = latent.channel_bits(variances, codec.sigma)
            meaning = "capacity of a Gaussian channel: the codes' variances over the noise's"
            out["bits"] = _bits(capacity, out["tokens_per_line"], meaning)
    else:
        out["information"] = latent.information(codes, log_variances)
        rate = out["information"]["kl"]["value"] / latent.LN2
        out["bits"] = _bits(rate, out["tokens_per_line"], "mean KL to the prior: the rate")
    return out


def _bits(bits: float, tokens: float, estimate: str) -> dict[str, Any]:
    return {"per_line": bits, "per_token": bits / tokens, "estimate": estimate}


def likelihood_study(scorer: Scorer, codec: Codec, dev: Held, sizes: Sizes) -> dict[str, Any]:
    """Teacher-forced numbers: second to free-running ones, and the collapse alarm."""
    out = collapse(scorer, dev.ids, dev.codes * np.float32(codec.scale))
    if dev.log_variances is None:
        return out | {"importance_weighted": STOCHASTIC_ONLY}
    some = slice(0, sizes.bounded)
    num_bytes = np.asarray([max(len(line.encode()), 1) for line in dev.lines[some]])
    found = importance_weighted(
        scorer,
        dev.ids[some],
        dev.codes[some],
        dev.log_variances[some],
        num_bytes,
        samples=sizes.importance,
    )
    return out | {"importance_weighted": found}


def sample_study(
    codec: Codec,
    train: list[str],
    some: Held,
    dev: list[str],
    test: list[str],
    python: bool,
    sizes: Sizes,
) -> dict[str, Any]:
    """Samples of all priors, judged by a language model of the training lines.

    Real lines stand beside the samples as another sample. They must not be among the lines that
    reverse perplexity is of, nor from the same files: neighbours look alike.

    Args:
        codec: of the model.
        train: all training lines.
        some: some of them with their codes, which priors are fitted to.
        dev: lines that reverse perplexity is of.
        test: lines held out one by one; where there are none, dev is cut in two.
        python, sizes: of the report.
    """
    real, held_out = (test, dev) if test else (dev[::2], dev[1::2])
    mixed = [real[i] for i in np.random.default_rng(0).permutation(len(real))]
    judge = samples.Judge(codec.tokenizer, train, held_out, python)
    return samples.study(codec, judge, some.codes, mixed, samples=sizes.samples, draws=sizes.draws)


def probe_study(
    task: Any,
    train: Held,
    dev: Held,
    labels: tuple[list[str], list[str]] | None,
    python: bool,
) -> dict[str, Any] | str:
    """Probes of the latent, of pooled encoder states, and of both of an untrained model.

    Args:
        task: makes the untrained model.
        train, dev: lines to train and test probes on.
        labels: of both, where the corpus has some; else Python's kind of statement, or whether the
            text holds a number.
        python: lines are Python's.
    """
    if labels is not None:
        name, names = "label", np.unique(labels[0]).tolist()
        index = {x: i for i, x in enumerate(names)}
        values = [np.asarray([index.get(x, -1) for x in part]) for part in labels]
    elif python:
        name, names = "kind of statement", list(KINDS)
        values = [np.asarray([kind(line) for line in part.lines]) for part in (train, dev)]
    else:
        name, names = "holds a number", ["no", "yes"]
        values = [
            np.asarray([any(c.isdigit() for c in line) for line in part.lines], int)
            for part in (train, dev)
        ]
    if len(np.unique(values[0])) < 2 or len(train.lines) < 10:
        return "n/a: all training lines have one label"
    untrained = Scorer(task.init(nnx.Rngs(1)), 0)
    parts = []
    for part in (train, dev):
        random = untrained.encoded(part.ids)
        parts.append(
            {
                "latent": part.flat,
                "pooled_encoder": part.pooled,
                "random_latent": random.mean.reshape(len(part.ids), -1),
                "random_pooled_encoder": random.pooled,
            }
        )
    found = probes.study(parts[0], values[0], parts[1], values[1])
    return {"label": name, "names": names, **found}


def disentanglement_study(dev: Held, python: bool, sizes: Sizes) -> dict[str, Any] | str:
    """Disentanglement of codes against factors of their lines."""
    rows = slice(0, sizes.factors)
    factors = factors_of(dev.lines[rows], python)
    if len(factors) < 2:
        return "n/a: the lines have fewer than two factors that vary"
    return disentanglement.measure(dev.flat[rows].astype(np.float64), factors)


def interpolation_study(codec: Codec, dev: Held, python: bool, sizes: Sizes) -> dict | str:
    """Scores of ways between held-out lines."""
    if len(dev.lines) < 2:
        return "n/a: fewer than two lines"
    return interpolation.study(
        codec,
        dev.lines,
        pairs=sizes.pairs,
        steps=sizes.steps,
        python=python,
        draws=sizes.draws,
    )


def finite(tree: Any) -> Any:
    """The same with None for numbers that are not finite: JSON has none."""
    if isinstance(tree, dict):
        return {name: finite(x) for name, x in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [finite(x) for x in tree]
    if tree is None or isinstance(tree, (bool, int, str)):
        return tree
    return float(tree) if np.isfinite(tree) else None
