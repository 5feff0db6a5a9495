"""Beam search: the best of several sequences per row."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from flaxae.decoding.choose import NEVER, is_end
from flaxae.decoding.loop import StepFn, map_rows


def beam(
    step: StepFn,
    cache: Any,
    start_ids: Int[Array, "B"],
    max_length: int,
    *,
    beams: int,
    length_penalty: float | Array = 1.0,
    eos: int | tuple[int, ...],
    pad: int = 0,
    cache_axes: Any = 0,
) -> Int[Array, "B T"]:
    """Return each row's best sequence by beam search. Call it under jit.

    One beam is greedy decoding. A sequence that ends among the best keeps its beam, so the others
    search with one beam less (Graves 2012). A row is done when no beam is left, or when no beam can
    still beat the best sequence that ended. If no sequence of a row ends, the best unfinished one
    is returned.

    Args:
        step: see `greedy`.
        cache: see `greedy`.
        start_ids: see `greedy`.
        max_length: see `greedy`.
        beams: sequences per row, K.
        length_penalty: sequences that ended are ranked by log-probability / length **
            length_penalty, the length including the end (0: by probability).
        eos: see `greedy`.
        pad: see `greedy`.
        cache_axes: the axis of rows of the cache's leaves, a prefix of its tree.

    Returns:
        Ids of each row's best sequence, (B, max_length).
    """
    rows = start_ids.shape[0]
    cache = map_rows(lambda x, axis: jnp.repeat(x, beams, axis), cache, cache_axes)
    rank = jnp.arange(2 * beams)[None]
    # A score below NEVER marks an unused beam. At the start only one is used, since all would be
    # the same.
    scores = jnp.broadcast_to(jnp.where(rank[:, :beams] == 0, 0.0, 2 * NEVER), (rows, beams))
    ids = jnp.full((rows, beams, max_length), pad, jnp.int32)
    last = jnp.repeat(start_ids.astype(jnp.int32), beams)
    ended = (ids, jnp.full((rows, beams), -jnp.inf))

    def unfinished(state: Any) -> Array:
        _, scores, _, _, ended, index = state
        # An upper bound of the rank that the best beam can reach: further ids only lower its
        # probability, and its length is at most max_length.
        lengths = jnp.stack([index + 1, jnp.int32(max_length)]).astype(jnp.float32)
        bound = jnp.max(scores[:, :1] / (lengths**length_penalty)[None], axis=1)
        open_rows = (scores[:, 0] > NEVER) & (bound > ended[1][:, 0])
        return (index < max_length) & jnp.any(open_rows)

    def body(state: Any) -> Any:
        ids, scores, last, cache, ended, index = state
        logits, cache = step(last, cache, index)
        size = logits.shape[-1]
        logp = rearrange(jax.nn.log_softmax(logits, axis=-1), "(B K) V -> B K V", K=beams)
        total = rearrange(scores[:, :, None] + logp, "B K V -> B (K V)")
        best, index_of_best = jax.lax.top_k(total, 2 * beams)  # a beam ends at most once
        parent, new = index_of_best // size, (index_of_best % size).astype(jnp.int32)
        longer = jnp.take_along_axis(ids, parent[:, :, None], axis=1)  # (B, 2 * beams, T)
        longer = jax.lax.dynamic_update_slice_in_dim(longer, new[:, :, None], index, axis=2)
        searching = beams - jnp.sum(jnp.isfinite(ended[1]), axis=1, keepdims=True)  # (B, 1)
        ends = is_end(new, eos) & (rank < searching) & (best > NEVER)
        length = (index + 1).astype(jnp.float32)
        ranked = jnp.where(ends, best / length**length_penalty, -jnp.inf)
        all_ids = jnp.concatenate([ended[0], longer], axis=1)
        ended = _best(all_ids, jnp.concatenate([ended[1], ranked], axis=1), beams)
        searching -= jnp.sum(ends, axis=1, keepdims=True)
        scores, chosen = jax.lax.top_k(jnp.where(is_end(new, eos), 2 * NEVER, best), beams)
        scores = jnp.where(rank[:, :beams] < searching, scores, 2 * NEVER)
        ids = jnp.take_along_axis(longer, chosen[:, :, None], axis=1)
        last = rearrange(jnp.take_along_axis(new, chosen, axis=1), "B K -> (B K)")
        source = jnp.take_along_axis(parent, chosen, axis=1) + beams * jnp.arange(rows)[:, None]
        source = rearrange(source, "B K -> (B K)")  # each new beam's row in the cache
        cache = map_rows(lambda x, axis: jnp.take(x, source, axis, mode="clip"), cache, cache_axes)
        return ids, scores, last, cache, ended, index + 1

    state = (ids, scores, last, cache, ended, jnp.int32(0))
    ids, _, _, _, ended, _ = jax.lax.while_loop(unfinished, body, state)
    return jnp.where(jnp.isfinite(ended[1][:, :1]), ended[0][:, 0], ids[:, 0])


def _best(
    ids: Int[Array, "B K T"], scores: Float[Array, "B K"], count: int
) -> tuple[Int[Array, "B C T"], Float[Array, "B C"]]:
    """Return the sequences of the highest scores, best first, and the scores."""
    scores, chosen = jax.lax.top_k(scores, count)
    return jnp.take_along_axis(ids, chosen[:, :, None], axis=1), scores
