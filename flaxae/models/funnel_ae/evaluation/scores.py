"""Codes and scores of held-out texts: the cross entropy of each text, the accuracy of each place.

A decoder that fills all places at once has no teacher forcing: these are scores of free-running
output.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from flaxae.data.tokenizer import PAD
from flaxae.measures.stats import Interval, bootstrap, ratio
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.task import Context

MAX_ROWS = 128  # rows per call; the last call is padded to it, so that one program compiles
MAX_LOGITS = 2**27  # numbers in the logits of one call


class Codes(NamedTuple):
    """Codes of texts, as the decoder reads them in an evaluation.

    Attributes:
        mean: the encoder's codes; random ones if the run trains on random codes.
        log_variance: logarithms of their variances; None: they are deterministic.
    """

    mean: Float[np.ndarray, "B L Z"]
    log_variance: Float[np.ndarray, "B L Z"] | None


class Scores(NamedTuple):
    """Scores of texts, one row per text.

    Attributes:
        nats: -log p of all tokens of a text, EOS included.
        tokens: number of tokens.
        same: 1 where the decoded id is the text's, 0 elsewhere and for padding.
    """

    nats: Float[np.ndarray, "B"]
    tokens: Float[np.ndarray, "B"]
    same: Float[np.ndarray, "B N"]


def context(step: Any) -> Context:
    """Return the context of an evaluation."""
    return Context(key=jax.random.key(0), step=step)


@partial(jax.jit, static_argnums=0)
def _encode(graphdef: Any, state: Any, step: Any, ids: Any) -> Any:
    model, ctx = nnx.merge(graphdef, state), context(step)
    mean, log_variance = model.posterior(model.encoded(ids, ctx), ctx)
    if model.moments is not None:
        # A text's draw must not depend on the call that it is in: its seed is a hash of its ids.
        factors = np.random.default_rng(0).integers(2**32, size=ids.shape[1], dtype=np.uint32)
        hashes = jnp.sum(ids.astype(jnp.uint32) * jnp.asarray(factors)[None], axis=1)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(ctx.key, hashes)
        draw = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], jnp.float32))
        mean = model.moments.mean[None] + model.moments.std[None] * draw(keys)
    return mean, log_variance


@partial(jax.jit, static_argnums=(0, 5))
def _score(graphdef: Any, state: Any, step: Any, ids: Any, z: Any, num_tokens: int) -> Any:
    model, ctx = nnx.merge(graphdef, state), context(step)
    logits = model.logits(model.decode(z, ctx)[0], ctx)
    chosen = jnp.take_along_axis(logits, ids[:, :, None], axis=-1)[:, :, 0]
    real = (ids != PAD).astype(jnp.float32)
    nats = (jax.nn.logsumexp(logits, axis=-1) - chosen) * real
    same = (model.choose(logits, ctx, num_tokens) == ids).astype(jnp.float32) * real
    return nats.sum(1), real.sum(1), same


class Scorer:
    """Codes and scores of texts, computed in batches of one size.

    Attributes:
        graphdef, state: the model.
        step: train step of its parameters.
        rows: rows per call.
    """

    def __init__(self, model: FunnelAEModel, step: Any, num_tokens: int):
        """Split a model into its graph definition and state.

        Args:
            model: the module to evaluate.
            step: train step of its parameters, which schedules read.
            num_tokens: number of ids that may be generated.
        """
        self.graphdef, self.state = nnx.split(model)
        self.step, self.num_tokens = jnp.asarray(step, jnp.int32), num_tokens
        self.rows = int(np.clip(MAX_LOGITS // (model.max_length * model.vocab_size), 1, MAX_ROWS))

    def encode(self, ids: Int[np.ndarray, "B N"]) -> Codes:
        """Return the codes of texts, given as ids with EOS, padded to all places."""
        return Codes(*self._batched(lambda *x: _encode(*self._model, *x), ids))

    def score(self, ids: Int[np.ndarray, "B N"], z: Float[np.ndarray, "B L Z"]) -> Scores:
        """Return the scores of texts that are decoded from codes."""
        z = np.asarray(z, np.float32)
        return Scores(
            *self._batched(lambda *x: _score(*self._model, *x, self.num_tokens), np.asarray(ids), z)
        )

    @property
    def _model(self) -> tuple[Any, Any, Any]:
        return self.graphdef, self.state, self.step

    def _batched(self, call: Any, *arrays: np.ndarray) -> Any:
        out = []
        for start in range(0, len(arrays[0]), self.rows):
            parts = [padded(x[start : start + self.rows], self.rows) for x in arrays]
            out.append(call(*parts))
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(arrays[0])], *out)


def padded(x: np.ndarray, rows: int) -> np.ndarray:
    """Repeat the last row until there are `rows`."""
    return np.concatenate([x, np.repeat(x[-1:], rows - len(x), axis=0)])


def perplexity(sums: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "..."]:
    """Return exp(nats / tokens) of sums, for `bootstrap`."""
    return np.exp(np.minimum(ratio(sums), 700.0))


def summary(scores: Scores, draws: int = 1000) -> dict[str, Any]:
    """Return the measures of a split.

    Args:
        scores: scores of its texts.
        draws: resamples of the bootstrap over texts.

    Returns:
        cross_entropy (nats per token), perplexity, first_token_accuracy, and `intervals` of them;
        `by_place`: for each place of a row the number of texts that reach it, and the accuracy
        there with its interval.
    """
    nats = np.stack([scores.nats, scores.tokens], axis=1)
    found: dict[str, Interval] = {
        "cross_entropy": bootstrap(nats, draws=draws),
        "perplexity": bootstrap(nats, perplexity, draws=draws),
        "first_token_accuracy": bootstrap(scores.same[:, 0], draws=draws),
    }
    places = []
    for i in range(scores.same.shape[1]):
        rows = scores.tokens > i
        if rows.any():
            place = bootstrap(scores.same[rows, i], draws=draws)
            places.append({"place": i, "lines": int(rows.sum())} | place.as_dict())
    return {
        **{name: x.value for name, x in found.items()},
        "intervals": {name: [x.low, x.high] for name, x in found.items()},
        "by_place": places,
    }
