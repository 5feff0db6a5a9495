"""Statistics of a dictionary's features over a text, in one pass and in constant memory."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from flaxae.activations.reader import StateReader
from flaxae.errors import ConfigError
from flaxae.sparse_autoencoder.api import SAE
from flaxae.sparse_autoencoder.dashboard.contexts import KeptContexts
from flaxae.sparse_autoencoder.dashboard.histogram import Histograms
from flaxae.sparse_autoencoder.dashboard.inputs import DashboardInput

MOST_BYTES = 2**28  # of the latents of one pass


@dataclasses.dataclass
class Statistics:
    """Statistics of features.

    Attributes:
        features: numbers of the features, ascending, (F,).
        tokens: number of tokens that were read.
        active: tokens in which each feature is active, (F,).
        largest: largest activation, (F,).
        total: sum of activations, (F,).
        histograms: counts of activations.
        top: contexts with the largest activations.
        sample: contexts drawn from all in which the feature is active, each with the same chance.
    """

    features: Int[np.ndarray, "F"]
    tokens: int
    active: Int[np.ndarray, "F"]
    largest: Float[np.ndarray, "F"]
    total: Float[np.ndarray, "F"]
    histograms: Histograms
    top: KeptContexts
    sample: KeptContexts


def collect(
    inputs: DashboardInput,
    *,
    features: Sequence[int] = (),
    contexts: int = 8,
    sampled: int = 16,
    log: Callable[[str], None] | None = None,
) -> Statistics:
    """Read a subject's text once.

    Args:
        inputs: the dictionary, its model and text.
        features: numbers of features; (): all.
        contexts: contexts per feature with the largest activations.
        sampled: contexts per feature drawn at random.
        log: called with a line now and then.

    Raises:
        ConfigError: if an activation is not finite.
    """
    sae, rows = SAE(inputs.sae, inputs.origin), inputs.rows
    length, d_sae = rows.ids.shape[1], inputs.sae.config.d_sae
    chosen = np.asarray(sorted(set(features)) if features else range(d_sae), np.int64)
    size = max(1, min(inputs.model_rows, MOST_BYTES // (4 * length * d_sae)))
    reader = StateReader(inputs.model, [inputs.tap], size)
    count = len(chosen)
    found = Statistics(
        chosen,
        0,
        np.zeros(count, np.int64),
        np.zeros(count, np.float32),
        np.zeros(count, np.float64),
        Histograms(count),
        KeptContexts(count, contexts),
        KeptContexts(count, sampled),
    )
    number = len(rows.ids)
    for start in range(0, number, size):
        part = np.arange(start, start + size)
        real = part < number
        at = np.minimum(part, number - 1)  # rows that only fill the last pass are not used
        states = reader(rows.ids[at], rows.mask[at])[0]
        latents = np.asarray(sae.encode(jnp.asarray(states)))
        use = rows.use[at] & real[:, None]
        latents = np.where(use[:, :, None], latents if not features else latents[..., chosen], 0)
        if not np.isfinite(latents).all():
            wrong = chosen[~np.isfinite(latents).all((0, 1))][0]
            raise ConfigError(
                f"feature {wrong}: its activations are not finite: check the dictionary's weights, "
                "and the model's with --dtype float32"
            )
        _add(found, latents, part.astype(np.int32))
        found.tokens += int(use.sum())
        if log is not None and (start // size) % 10 == 9:
            log(f"read {found.tokens:,} of {int(rows.use.sum()):,} tokens")
    return found


def _add(
    found: Statistics, latents: Float[np.ndarray, "N S F"], rows: Int[np.ndarray, "N"]
) -> None:
    """Add the latents of some rows; they are 0 where a token is not used."""
    values, peaks = latents.max(1), latents.argmax(1)
    row, position, feature = np.nonzero(latents)
    active = latents[row, position, feature]
    found.active += np.bincount(feature, minlength=len(found.features))
    found.total += np.bincount(feature, weights=active, minlength=len(found.features))
    found.largest = np.maximum(found.largest, values.max(0))
    found.histograms.add(active, feature)
    found.top.offer(values, rows, peaks, latents)
    # A uniform sample: the contexts with the largest random keys.
    keys = np.where(values > 0, _keys(rows, found.features), 0)
    found.sample.offer(keys, rows, peaks, latents)


def _keys(rows: Int[np.ndarray, "N"], features: Int[np.ndarray, "F"]) -> Float[np.ndarray, "N F"]:
    """Return a random number in (0, 1] for each row and feature, whatever the others are."""
    count = int(features.max()) + 1
    drawn = [np.random.default_rng(int(row)).random(count, np.float32) for row in rows]
    return 1 - np.stack(drawn)[:, features]
