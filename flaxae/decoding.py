"""Decoding for every autoregressive model: one loop inside jit, a cache that is any pytree."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

StepFn = Callable[[Int[Array, "B"], Any, Int[Array, ""]], tuple[Float[Array, "B V"], Any]]


def greedy(
    step: StepFn,
    cache: Any,
    start_ids: Int[Array, "B"],
    max_length: int,
    *,
    eos: int,
    pad: int = 0,
) -> Int[Array, "B T"]:
    """The most likely next id again and again, until all rows ended. Call it under jit.

    Args:
        step: (ids at this position, cache, position) -> (scores of the next id, cache).
        cache: what `step` starts from.
        start_ids: what is fed at position 0.
        max_length: ids to decode at most.
        eos: ends a row; it is kept.
        pad: fills a row after its end.
    Returns:
        ids, (B, max_length).
    """
    rows = start_ids.shape[0]
    ids = jnp.full((rows, max_length), pad, jnp.int32)

    def going(state: Any) -> Array:
        _, _, _, done, index = state
        return (index < max_length) & ~jnp.all(done)

    def body(state: Any) -> Any:
        ids, last, cache, done, index = state
        logits, cache = step(last, cache, index)
        new = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        new = jnp.where(done, pad, new)
        ids = jax.lax.dynamic_update_slice_in_dim(ids, new[:, None], index, axis=1)
        return ids, new, cache, done | (new == eos), index + 1

    done = jnp.zeros(rows, bool)
    state = (ids, start_ids.astype(jnp.int32), cache, done, jnp.int32(0))
    return jax.lax.while_loop(going, body, state)[0]
