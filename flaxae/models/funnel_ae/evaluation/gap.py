"""The encoder's gap: does the decoder know a better code of a text than the encoder's?

The decoder is fixed. The code of each text is optimised by gradient, from the encoder's code and
from the mean code. If optimised codes give texts that the encoder's code does not, the encoder is
what limits the reconstruction; if not, the decoder is, or the size of the code. A code optimised
for one text may be any point that decodes to it (Kuratov et al. 2025, arXiv 2502.13063), so this is
a bound for encoders of this decoder, not a result of the autoencoder.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from flaxae.data.tokenizer import PAD
from flaxae.measures.stats import bootstrap, paired_difference
from flaxae.models.funnel_ae.evaluation.scores import Scorer, Scores, context, padded
from flaxae.models.funnel_ae.places import head_loss

RATE = 0.1  # first step size, in standard deviations of the codes; it decays by a cosine to 0
MOMENTS = (0.9, 0.99)  # of Adam


@partial(jax.jit, static_argnums=(0, 6))
def _optimise(
    graphdef: Any, state: Any, step: Any, ids: Any, start: Any, rate: Any, steps: int
) -> Any:
    """Return codes after `steps` updates of Adam on the mean cross entropy of each text."""
    model, ctx = nnx.merge(graphdef, state), context(step)
    real = (ids != PAD).astype(jnp.float32)
    weights = real / jnp.maximum(real.sum(1, keepdims=True), 1)

    def loss(z: Any) -> Any:
        states, _ = model.decode(z, ctx)
        return head_loss(model.embeddings.tokens, states, ids, weights, ctx)[0]

    def update(carry: Any, t: Any) -> Any:
        z, mean, square = carry
        grad = jax.grad(loss)(z)
        a, b = MOMENTS
        mean, square = a * mean + (1 - a) * grad, b * square + (1 - b) * grad * grad
        direction = mean / (1 - a**t) / (jnp.sqrt(square / (1 - b**t)) + 1e-8)
        now = rate * 0.5 * (1 + jnp.cos(jnp.pi * (t - 1) / steps))
        return (z - now * direction, mean, square), None

    times = jnp.arange(1, steps + 1, dtype=jnp.float32)
    zeros = jnp.zeros_like(start)
    return jax.lax.scan(update, (start, zeros, zeros), times)[0][0]


def optimised(
    scorer: Scorer,
    ids: Int[np.ndarray, "B N"],
    start: Float[np.ndarray, "B L Z"],
    *,
    spread: float,
    steps: int,
) -> tuple[Float[np.ndarray, "B L Z"], Scores]:
    """Optimise the code of each text.

    Args:
        scorer: the model.
        ids: ids of the texts.
        start: codes to start at.
        spread: standard deviation of the numbers of codes.
        steps: updates of Adam.

    Returns:
        For each text the last code, or the start if that has a lower cross entropy; and its scores.
    """
    start, out = np.asarray(start, np.float32), []
    rate = np.float32(RATE * spread)
    rows = min(scorer.rows, len(ids))
    for i in range(0, len(ids), rows):
        part = slice(i, i + rows)
        args = (padded(x[part], rows) for x in (ids, start))
        found = _optimise(scorer.graphdef, scorer.state, scorer.step, *args, rate, steps)
        out.append(np.asarray(found)[: len(ids[part])])
    end = np.concatenate(out)
    before, after = scorer.score(ids, start), scorer.score(ids, end)
    better = after.nats < before.nats
    codes = np.where(better[:, None, None], end, start)
    pairs = zip(before, after, strict=True)
    scores = [np.where(better.reshape(-1, *[1] * (x.ndim - 1)), y, x) for x, y in pairs]
    return codes, Scores(*scores)


def study(
    scorer: Scorer,
    ids: Int[np.ndarray, "B N"],
    codes: Float[np.ndarray, "B L Z"],
    mean: Float[np.ndarray, "L Z"],
    *,
    steps: int,
    draws: int = 1000,
) -> dict[str, Any]:
    """Compare the encoder's codes of texts with optimised ones.

    Args:
        scorer: the model.
        ids: ids of held-out texts, with EOS, padded to all places.
        codes: the encoder's codes of the texts.
        mean: the mean code.
        steps: updates of Adam per start.
        draws: resamples of the bootstrap over texts.

    Returns:
        texts and steps; for "encoder" and "mean": exact_match and cross_entropy (nats per token)
        "before" and "after", and `moved`, the mean distance to the start over that of two random
        codes of the split; and `gap`, exact match after optimisation from the encoder's code minus
        that of the code itself.
    """
    spread = float(codes.std(0).mean()) or 1.0
    random = float(np.sqrt(2 * codes.var(0).sum())) or 1.0
    out: dict[str, Any] = {"texts": len(ids), "steps": steps}
    starts = {"encoder": codes, "mean": np.broadcast_to(mean, codes.shape)}
    for name, start in starts.items():
        end, after = optimised(scorer, ids, start, spread=spread, steps=steps)
        before = scorer.score(ids, start)
        if name == "encoder":
            gap = paired_difference(_exact(after), _exact(before), draws=draws)
            out["gap"] = gap.as_dict()
        moved = np.linalg.norm((end - start).reshape(len(end), -1), axis=1) / random  # (B,)
        out[name] = {
            "before": _row(before, draws),
            "after": _row(after, draws),
            "moved": bootstrap(moved, draws=draws).as_dict(),
        }
    return out


def _exact(scores: Scores) -> Float[np.ndarray, "B"]:
    """Return 1 for texts whose tokens are all decoded."""
    return (scores.same.sum(1) == scores.tokens).astype(float)


def _row(scores: Scores, draws: int) -> dict[str, Any]:
    nats = np.stack([scores.nats, scores.tokens], axis=1)
    return {
        "exact_match": bootstrap(_exact(scores), draws=draws).as_dict(),
        "cross_entropy": bootstrap(nats, draws=draws).as_dict(),
    }
