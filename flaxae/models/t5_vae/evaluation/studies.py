"""The parts of a report, each a function from a model and lines to numbers for JSON."""

import dataclasses
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float

from flaxae.data.labels import MISSING
from flaxae.models.t5_vae.evaluation import disentanglement, probes
from flaxae.models.t5_vae.evaluation.factors import KINDS, factors_of, kind
from flaxae.models.t5_vae.evaluation.likelihood import (
    Scorer,
    importance_weighted,
    posterior_collapse,
)
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import run_report
from flaxae.text_autoencoder.evaluation.latent import STOCHASTIC_ONLY
from flaxae.text_autoencoder.samples import too_few

MIN_LINES = 10  # for a study that divides lines into classes


@dataclasses.dataclass(frozen=True)
class Sizes(run_report.Sizes):
    """Numbers of lines, samples and resamples that a report uses."""

    bounded: int = 300  # lines for the importance-weighted bound
    importance: int = 16  # draws per posterior for the bound
    factors: int = 1500  # lines for disentanglement


@dataclasses.dataclass
class EncodedLines(run_report.Encoded):
    """Lines with their ids, codes and mean-pooled encoder states, which several parts need."""

    pooled: Float[np.ndarray, "B D"]


def encode_lines(scorer: Scorer, codec: Codec, lines: list[str]) -> EncodedLines:
    """Encode lines once for all parts of a report."""
    ids = codec.ids(lines)
    return EncodedLines(lines, ids, *scorer.encode(ids))


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
