"""The loops of greedy and sampled decoding: one id per row and iteration, until all rows ended."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flaxae.decoding.choose import ChooseFn, Sampling, chooser, is_end

StepFn = Callable[[Int[Array, "B"], Any, Int[Array, ""]], tuple[Float[Array, "B V"], Any]]

# Each halving compiles one more loop. With 8, batches of 32 rows would be faster on a CPU (22 ms
# instead of 37 ms), but not those of 128.
FEWEST_ROWS = 16


def greedy(
    step: StepFn,
    cache: Any,
    start_ids: Int[Array, "B"],
    max_length: int,
    *,
    eos: int | tuple[int, ...],
    pad: int = 0,
    drop_axes: Any = None,
) -> Int[Array, "B T"]:
    """Decode the most likely next id until all rows have ended. Call it under jit.

    Args:
        step: (ids at this position, cache, position) -> (scores of the next id, cache).
        cache: initial cache.
        start_ids: ids at position 0.
        max_length: maximum number of ids to decode.
        eos: the id, or ids, that end a row; it is kept.
        pad: id after a row's end.
        drop_axes: the axis of rows of the cache's leaves, a prefix of its tree: rows that ended are
            dropped; None: all rows are kept.

    Returns:
        Ids, (B, max_length).
    """
    choose = chooser(Sampling(), None)
    return _loop(step, choose, cache, start_ids, max_length, eos, pad, drop_axes)


def sample(
    step: StepFn,
    cache: Any,
    start_ids: Int[Array, "B"],
    max_length: int,
    *,
    key: Key[Array, ""],
    sampling: Sampling,
    eos: int | tuple[int, ...],
    pad: int = 0,
    drop_axes: Any = None,
) -> Int[Array, "B T"]:
    """Draw every id from softmax(scores / temperature), cut to the top k and the nucleus.

    Args:
        step: see `greedy`.
        cache: see `greedy`.
        start_ids: see `greedy`.
        max_length: see `greedy`.
        key: random key; row r draws from fold_in(key, r), so other rows do not change its ids.
        sampling: options, with a temperature.
        eos: see `greedy`.
        pad: see `greedy`.
        drop_axes: see `greedy`.

    Returns:
        Ids, (B, max_length).
    """
    choose = chooser(sampling, key)
    return _loop(step, choose, cache, start_ids, max_length, eos, pad, drop_axes)


def advance(
    step: StepFn,
    choose: ChooseFn,
    state: dict[str, Any],
    steps: int,
    *,
    eos: int | tuple[int, ...],
    pad: int = 0,
) -> tuple[Int[Array, "B T"], dict[str, Any]]:
    """Decode a few more ids, for output that is shown while it is decoded. Call it under jit.

    Args:
        step: see `greedy`.
        choose: function made by `chooser`.
        state: {"last": (B,), "cache", "done": (B,), "index": ()}: the ids to feed next, the cache,
            which rows ended, and the number of ids decoded so far.
        steps: maximum number of ids; fewer are decoded if all rows end.
        eos: see `greedy`.
        pad: see `greedy`.

    Returns:
        Ids, (B, steps), and the new state. All parts joined equal the ids of `greedy` or `sample`.
    """
    rows = jnp.arange(state["last"].shape[0])
    first, out = state["index"], jnp.full((rows.shape[0], steps), pad, jnp.int32)

    def unfinished(loop: Any) -> Array:
        _, state = loop
        return (state["index"] < first + steps) & ~jnp.all(state["done"])

    def body(loop: Any) -> Any:
        ids, state = loop
        logits, cache = step(state["last"], state["cache"], state["index"])
        new = jnp.where(state["done"], pad, choose(logits, state["index"], rows).astype(jnp.int32))
        column = state["index"] - first
        ids = jax.lax.dynamic_update_slice_in_dim(ids, new[:, None], column, axis=1)
        done = state["done"] | is_end(new, eos)
        return ids, {"last": new, "cache": cache, "done": done, "index": state["index"] + 1}

    return jax.lax.while_loop(unfinished, body, (out, state))


def _loop(
    step: StepFn,
    choose: ChooseFn,
    cache: Any,
    start_ids: Int[Array, "B"],
    max_length: int,
    eos: int | tuple[int, ...],
    pad: int,
    drop_axes: Any,
) -> Int[Array, "B T"]:
    """Decode one id per row and iteration until all rows have ended."""
    rows = start_ids.shape[0]
    out = jnp.full((rows, max_length), pad, jnp.int32)
    # `row_ids`: the index in the batch of each row that is still decoded.
    row_ids, last, done = jnp.arange(rows), start_ids.astype(jnp.int32), jnp.zeros(rows, bool)
    index, ids = jnp.int32(0), out
    while True:
        fewer = rows // 2 if drop_axes is not None and rows >= 2 * FEWEST_ROWS else 0

        def unfinished(state: Any, fewer: int = fewer) -> Array:
            *_, done, index = state
            return (index < max_length) & (jnp.sum(~done) > fewer)

        def body(state: Any, row_ids: Array = row_ids) -> Any:
            ids, last, cache, done, index = state
            logits, cache = step(last, cache, index)
            new = jnp.where(done, pad, choose(logits, index, row_ids).astype(jnp.int32))
            ids = jax.lax.dynamic_update_slice_in_dim(ids, new[:, None], index, axis=1)
            return ids, new, cache, done | is_end(new, eos), index + 1

        state = (ids, last, cache, done, index)
        ids, last, cache, done, index = jax.lax.while_loop(unfinished, body, state)
        out = out.at[row_ids].set(ids, unique_indices=True)
        if not fewer:
            return out
        # Unfinished rows come first. (If max_length is reached, unfinished rows may be dropped here
        # too: their ids are in `out`, and no further loop runs.)
        kept = jnp.argsort(done, stable=True)[:fewer]
        row_ids, last, done, ids = row_ids[kept], last[kept], done[kept], ids[kept]
        cache = map_rows(lambda x, axis, kept=kept: jnp.take(x, kept, axis), cache, drop_axes)
        rows = fewer


def map_rows(f: Callable[[Array, int], Array], cache: Any, axes: Any) -> Any:
    """Apply f(leaf, axis of rows) to every leaf of a cache.

    Args:
        f: function of a leaf and its axis.
        cache: tree of arrays.
        axes: the axis of rows of the leaves, a prefix of the cache's tree.

    Returns:
        The new cache.
    """
    return jax.tree.map(lambda axis, part: jax.tree.map(lambda x: f(x, axis), part), axes, cache)
