"""The loops of greedy and sampled decoding: one id a row and turn, until all rows ended."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flaxae.decoding.choose import ChooseFn, Sampling, chooser, is_end

StepFn = Callable[[Int[Array, "B"], Any, Int[Array, ""]], tuple[Float[Array, "B V"], Any]]

# Each halving is one more loop to compile: at 8, batches of 32 rows would be faster on a CPU (22 ms
# for 37), those of 128 not.
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
    """The most likely next id again and again, until all rows ended. Call it under jit.

    Args:
        step: (ids at this position, cache, position) -> (scores of the next id, cache).
        cache: what `step` starts from.
        start_ids: what is fed at position 0.
        max_length: ids to decode at most.
        eos: ends a row, or several that do; it is kept.
        pad: fills a row after its end.
        drop_axes: the cache's axes of rows (see `generate`): rows that ended are dropped.

    Returns:
        ids, (B, max_length).
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
    """Draws every id from softmax(scores / temperature), cut to the top k and the nucleus.

    Args:
        step, cache, start_ids, max_length, eos, pad, drop_axes: see `greedy`.
        key: row r draws from fold_in(key, r): more rows in the batch change nothing in it.
        sampling: its temperature must be set.

    Returns:
        ids, (B, max_length).
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
    """A part of a decoding that is shown while it goes on: so many ids more. Call it under jit.

    Args:
        step: see `greedy`.
        choose: what `chooser` gives.
        state: {"last": (B,), "cache", "done": (B,), "index": ()}: the ids to feed next, what
            `step` starts from, which rows ended, and how many ids there were.
        steps: how many; fewer where all rows end.

    Returns:
        The ids, (B, steps), and the state; all parts together are what `greedy` or `sample` give.
    """
    rows = jnp.arange(state["last"].shape[0])
    first, out = state["index"], jnp.full((rows.shape[0], steps), pad, jnp.int32)

    def going(loop: Any) -> Array:
        _, state = loop
        return (state["index"] < first + steps) & ~jnp.all(state["done"])

    def body(loop: Any) -> Any:
        ids, state = loop
        logits, cache = step(state["last"], state["cache"], state["index"])
        new = jnp.where(state["done"], pad, choose(logits, state["index"], rows).astype(jnp.int32))
        place = state["index"] - first
        ids = jax.lax.dynamic_update_slice_in_dim(ids, new[:, None], place, axis=1)
        done = state["done"] | is_end(new, eos)
        return ids, {"last": new, "cache": cache, "done": done, "index": state["index"] + 1}

    return jax.lax.while_loop(going, body, (out, state))


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
    """One id a row and turn, until all rows ended."""
    rows = start_ids.shape[0]
    out = jnp.full((rows, max_length), pad, jnp.int32)
    where, last, done = jnp.arange(rows), start_ids.astype(jnp.int32), jnp.zeros(rows, bool)
    index, ids = jnp.int32(0), out
    while True:
        fewer = rows // 2 if drop_axes is not None and rows >= 2 * FEWEST_ROWS else 0

        def going(state: Any, fewer: int = fewer) -> Array:
            *_, done, index = state
            return (index < max_length) & (jnp.sum(~done) > fewer)

        def body(state: Any, where: Array = where) -> Any:
            ids, last, cache, done, index = state
            logits, cache = step(last, cache, index)
            new = jnp.where(done, pad, choose(logits, index, where).astype(jnp.int32))
            ids = jax.lax.dynamic_update_slice_in_dim(ids, new[:, None], index, axis=1)
            return ids, new, cache, done | is_end(new, eos), index + 1

        state = (ids, last, cache, done, index)
        ids, last, cache, done, index = jax.lax.while_loop(going, body, state)
        out = out.at[where].set(ids, unique_indices=True)
        if not fewer:
            return out
        # Those that go on come first. (Where max_length is reached, more may be cut off here:
        # their ids are in `out`, and no loop runs any more.)
        kept = jnp.argsort(done, stable=True)[:fewer]
        where, last, done, ids = where[kept], last[kept], done[kept], ids[kept]
        cache = map_rows(lambda x, axis, kept=kept: jnp.take(x, kept, axis), cache, drop_axes)
        rows = fewer


def map_rows(f: Callable[[Array, int], Array], cache: Any, axes: Any) -> Any:
    """f(leaf, its axis of rows) of every leaf."""
    return jax.tree.map(lambda axis, part: jax.tree.map(lambda x: f(x, axis), part), axes, cache)
