"""Posteriors, pooled encoder states, teacher-forced losses and likelihood bounds."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Float, Int

from flaxae.lm.t5.modeling import PAD
from flaxae.measures.stats import bootstrap, paired_difference, ratio
from flaxae.models.t5_vae.modeling import T5VAEModel
from flaxae.task import Context, Taps
from flaxae.text_autoencoder.codec import lengths_to

MAX_ROWS = 128  # rows per call; the last call is padded to it, so that few programs compile
MAX_LOGITS = 2**27  # numbers in the logits of one call
ALARM = 0.1  # nats per token


@partial(jax.jit, static_argnums=0)
def _encode(graphdef: Any, state: Any, step: Any, ids: Any) -> Any:
    """Return posterior mean, log variance and mean encoder state of each text."""
    model = nnx.merge(graphdef, state)
    taps = Taps(lambda path: path == "encoder.blocks.out")
    ctx = Context(key=jax.random.key(0), step=step, taps=taps)
    mean, log_variance = model.posterior([ids], ctx)
    layers = taps.collected["encoder.blocks.out"]  # (layers, B * T, D)
    states = model.t5.encoder.final_norm(layers[-1], ctx)
    states = rearrange(states, "(b t) d -> b t d", b=len(ids)).astype(jnp.float32)
    mask = (ids != PAD).astype(jnp.float32)[:, :, None]
    return mean, log_variance, jnp.sum(states * mask, 1) / jnp.maximum(jnp.sum(mask, 1), 1)


@partial(jax.jit, static_argnums=0)
def _teacher_forced(graphdef: Any, state: Any, step: Any, ids: Any, z: Any) -> Any:
    """Return nats, tokens and correct tokens of each text, (B, 3)."""
    model = nnx.merge(graphdef, state)
    ctx = Context(key=jax.random.key(0), step=step)
    logits = model.t5.logits(model.decode(z, [ids], ctx), ctx).astype(jnp.float32)
    logits = rearrange(logits, "(b t) v -> b t v", b=len(ids))
    chosen = jnp.take_along_axis(logits, ids[:, :, None], axis=-1)[:, :, 0]
    nats = jax.nn.logsumexp(logits, axis=-1) - chosen
    mask = (ids != PAD).astype(jnp.float32)
    hits = (chosen >= logits.max(-1)).astype(jnp.float32)
    return jnp.stack([jnp.sum(x, 1) for x in (nats * mask, mask, hits * mask)], axis=1)


class Encoded(NamedTuple):
    """The encoder's results for texts."""

    mean: Float[np.ndarray, "B L Z"]
    log_variance: Float[np.ndarray, "B L Z"] | None  # None if the encoder is deterministic
    pooled: Float[np.ndarray, "B D"]  # mean of the encoder's output over each text's tokens


class Scorer:
    """Encodings and teacher-forced losses of texts, computed in batches of one size."""

    def __init__(self, model: T5VAEModel, step: Any):
        """Split a model into its graph definition and state.

        Args:
            model: the module to evaluate.
            step: training step of its parameters, which schedules read.
        """
        self._graphdef, self._state = nnx.split(model)
        self._step = jnp.asarray(step, jnp.int32)
        size = model.max_length * model.t5.embedding.table.shape[0]
        self._lengths = lengths_to(model.max_length)
        self._rows = int(np.clip(MAX_LOGITS // size, 1, MAX_ROWS))

    def encode(self, ids: Int[np.ndarray, "B T"]) -> Encoded:
        """Encode texts, given as ids with EOS, then padding."""
        return Encoded(*self._batched(_encode, ids))

    def teacher_forced(
        self, ids: Int[np.ndarray, "B T"], z: Float[np.ndarray, "B L Z"]
    ) -> Float[np.ndarray, "B 3"]:
        """Return -log p(text | z) in nats, the number of tokens, and how many were ranked first.

        Args:
            ids: ids of the texts with EOS, then padding.
            z: codes as the decoder expects them (`clean_code`).
        """
        return self._batched(_teacher_forced, ids, np.asarray(z, np.float32))

    def _batched(self, call: Any, ids: np.ndarray, *arrays: np.ndarray) -> Any:
        """Call a function for all rows in batches of similar length, cut to that length."""
        counts = np.where(ids != PAD, np.arange(1, ids.shape[1] + 1), 1).max(1, initial=1)
        order = np.argsort(counts, kind="stable")
        out = []
        for start in range(0, len(ids), self._rows):
            rows = order[start : start + self._rows]
            length = next(x for x in self._lengths if x >= counts[rows].max())
            padded = np.concatenate([rows, np.repeat(rows[-1:], self._rows - len(rows))])
            parts = [ids[padded, :length], *(a[padded] for a in arrays)]
            found = call(self._graphdef, self._state, self._step, *parts)
            out.append(jax.tree.map(lambda x: _host(x)[: len(rows)], found))  # noqa: B023
        back = np.argsort(order)
        return jax.tree.map(lambda *x: np.concatenate(x)[back], *out)


def _host(x: jax.Array) -> np.ndarray:
    """Return an array in host memory, gathered from all processes if needed."""
    if not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def posterior_collapse(
    scorer: Scorer, ids: Int[np.ndarray, "B T"], codes: Float[np.ndarray, "B L Z"]
) -> dict[str, Any]:
    """Compare teacher-forced cross entropy with the right code, another text's code, and zeros.

    Args:
        scorer: the model's scorer.
        ids: ids of the texts.
        codes: their codes as the decoder expects them.

    Returns:
        cross_entropy, accuracy, shuffled, zero (nats per token) and the gap to shuffled, each with
        its interval; and the alarm, true if the gap is below ALARM nats, when the decoder hardly
        reads the code. Without an alarm a model may still be bad: a large gap is compatible with
        poor reconstruction.
    """
    right = scorer.teacher_forced(ids, codes)
    shuffled = scorer.teacher_forced(ids, np.roll(codes, 1, axis=0))
    zero = scorer.teacher_forced(ids, np.zeros_like(codes))
    gap = paired_difference(shuffled[:, :2], right[:, :2])
    return {
        "cross_entropy": bootstrap(right[:, :2]).as_dict(),
        "accuracy": bootstrap(right[:, [2, 1]]).as_dict(),
        "shuffled": bootstrap(shuffled[:, :2]).as_dict(),
        "zero": bootstrap(zero[:, :2]).as_dict(),
        "shuffled_gap": gap.as_dict(),
        "alarm": bool(gap.value < ALARM),
    }


def importance_weighted(
    scorer: Scorer,
    ids: Int[np.ndarray, "B T"],
    means: Float[np.ndarray, "B L Z"],
    log_variances: Float[np.ndarray, "B L Z"],
    num_bytes: Int[np.ndarray, " B"],
    *,
    samples: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Bound perplexity and bits per byte by importance weighting (Burda et al. 2016, eq. 8).

    log p(x) >= log mean_k p(x | z_k) p(z_k) / q(z_k | x) with z_k ~ q(z | x) gives an upper bound
    of the perplexity, which is tighter with more samples.

    Args:
        scorer: the model's scorer.
        ids: ids of the texts.
        means: means of their posteriors.
        log_variances: log variances of their posteriors.
        num_bytes: UTF-8 bytes of each text, without EOS.
        samples: number of draws from each posterior.
        seed: seed of the draws.

    Returns:
        perplexity, bits_per_byte and nats_per_text with their intervals, samples and lines.
    """
    rng = np.random.default_rng(seed)
    std = np.exp(0.5 * log_variances)
    weights, tokens = [], np.ones(len(ids))
    for _ in range(samples):
        noise = rng.normal(size=means.shape)
        z = means + std * noise
        found = scorer.teacher_forced(ids, z)
        tokens = found[:, 1]
        # log p(z) - log q(z|x): the constants of both densities cancel.
        prior = 0.5 * (np.square(noise) + log_variances - np.square(z))
        weights.append(-found[:, 0] + prior.reshape(len(ids), -1).sum(1))
    nats = -(np.logaddexp.reduce(np.stack(weights), axis=0) - np.log(samples))
    perplexity = bootstrap(np.stack([nats, tokens], 1), lambda s: np.exp(ratio(s)))
    return {
        "samples": samples,
        "lines": len(ids),
        "perplexity": perplexity.as_dict(),
        "bits_per_byte": bootstrap(np.stack([nats / np.log(2), num_bytes], 1)).as_dict(),
        "nats_per_text": bootstrap(nats).as_dict(),
    }
