"""Decoding for every autoregressive model: one loop inside jit, a cache that is any pytree.

A model gives `step(ids at this position, cache, position) -> (scores of the next id, cache)`. All
loops end when every row has ended, and a row's ids do not depend on the other rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flaxae.config import ConfigError

StepFn = Callable[[Int[Array, "B"], Any, Int[Array, ""]], tuple[Float[Array, "B V"], Any]]
# (scores, position, which rows of the batch these are) -> ids
ChooseFn = Callable[[Float[Array, "B V"], Int[Array, ""], Int[Array, "B"]], Int[Array, "B"]]

FEWEST_ROWS = 32  # below, dropping rows gains nothing
NEVER = -1e9  # a score that no real sequence has; finite, so that sums of it stay ordered


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How ids are chosen. The default is greedy.

    It is a pytree: other values of temperature, top_p and length_penalty compile nothing new.

    Attributes:
        temperature: of the softmax that ids are drawn from; None or 0: the most likely id.
        top_k: only so many of the most likely ids; 0: all.
        top_p: only the most likely ids that together have this probability (Holtzman et al. 2020);
            None or 1: all.
        beams: above 1, beam search with so many beams instead; nothing is drawn.
        length_penalty: beam search ranks by log-probability / length ** length_penalty.
    """

    temperature: float | None = None
    top_k: int = 0
    top_p: float | None = None
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        self._check("temperature", self.temperature, lambda x: 0 <= x < float("inf"), "at least 0")
        self._check("top_p", self.top_p, lambda x: 0 < x <= 1, "above 0 and at most 1")
        self._check("top_k", self.top_k, lambda x: x >= 0, "at least 0")
        self._check("beams", self.beams, lambda x: x >= 1, "at least 1")
        if self.beams > 1 and self.temperature:
            raise ConfigError(
                f"beams={self.beams} and temperature={self.temperature}: beam search draws nothing;"
                " give one of the two"
            )
        if _known(self.temperature) and self.temperature == 0:
            object.__setattr__(self, "temperature", None)
        if _known(self.top_p) and self.top_p == 1:
            object.__setattr__(self, "top_p", None)

    def _check(self, name: str, value: Any, fits: Callable[[Any], bool], what: str) -> None:
        if _known(value) and not fits(value):
            raise ConfigError(f"{name}={value} must be {what}")


def _known(value: Any) -> bool:
    """Whether it is a number, not a tracer, None, or what else jax puts into a pytree's leaves."""
    return isinstance(value, (int, float))


jax.tree_util.register_dataclass(
    Sampling,
    data_fields=["temperature", "top_p", "length_penalty"],
    meta_fields=["top_k", "beams"],
)


def generate(
    step: StepFn,
    cache: Any,
    start_ids: Int[Array, "B"],
    max_length: int,
    sampling: Sampling,
    key: Key[Array, ""],
    *,
    eos: int | tuple[int, ...],
    pad: int = 0,
    cache_axes: Any = 0,
    drop_ended: bool = False,
) -> Int[Array, "B T"]:
    """What `sampling` asks for: `greedy`, `sample` or `beam`. Call it under jit.

    Args:
        step, cache, start_ids, max_length, eos, pad: see `greedy`.
        sampling: how ids are chosen.
        key: what `sample` draws from.
        cache_axes: the axis of rows of the cache's leaves, a prefix of its tree.
        drop_ended: greedy and sampling go on with half of the rows as soon as the others ended.
            That saves most of the work where lengths differ, and compiles a loop a halving.
    Returns:
        ids, (B, max_length).
    """
    common: Any = {"eos": eos, "pad": pad}
    if sampling.beams > 1:
        common |= {"beams": sampling.beams, "length_penalty": sampling.length_penalty}
        return beam(step, cache, start_ids, max_length, cache_axes=cache_axes, **common)
    common["drop_axes"] = cache_axes if drop_ended else None
    if sampling.temperature is None:
        return greedy(step, cache, start_ids, max_length, **common)
    return sample(step, cache, start_ids, max_length, key=key, sampling=sampling, **common)


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


def chooser(sampling: Sampling, key: Any) -> ChooseFn:
    """How `greedy`, or `sample` from a key, take the next id of scores; greedy reads no key."""
    temperature: Any = sampling.temperature

    def best(logits: Array, index: Array, rows: Array) -> Array:
        return jnp.argmax(logits, axis=-1)

    def drawn(logits: Array, index: Array, rows: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        logits = logits / temperature
        if sampling.top_p is None and not sampling.top_k:
            return jax.vmap(jax.random.categorical)(keys, logits)
        size = logits.shape[-1]
        logits, ids = jax.lax.top_k(logits, min(sampling.top_k or size, size))  # best first
        if sampling.top_p is not None:
            logits = nucleus(logits, sampling.top_p)
        chosen = jax.vmap(jax.random.categorical)(keys, logits)
        return jnp.take_along_axis(ids, chosen[:, None], axis=1)[:, 0]

    return best if temperature is None else drawn


def nucleus(logits: Float[Array, "B K"], top_p: float | Array) -> Float[Array, "B K"]:
    """Keeps the fewest of the best ids whose probability reaches top_p (Holtzman et al. 2020).

    Args:
        logits: best first.
        top_p: the probability that is enough.
    Returns:
        The logits, NEVER where an id is not in the nucleus; the best one always is.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities  # of the better ids
    inside = (before < top_p).at[:, 0].set(True)
    return jnp.where(inside, logits, NEVER)


def is_end(ids: Int[Array, "..."], eos: int | tuple[int, ...]) -> Bool[Array, "..."]:
    """Whether ids are an end."""
    ends = (eos,) if isinstance(eos, int) else eos
    found = ids == ends[0]
    for end in ends[1:]:
        found = found | (ids == end)
    return found


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
        cache = _map_rows(lambda x, axis, kept=kept: jnp.take(x, kept, axis), cache, drop_axes)
        rows = fewer


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
    """The best sequence that a beam search finds; one beam is greedy. Call it under jit.

    A sequence that ends among the best keeps its beam, so the others search with one less (Graves
    2012); a row is done when no beam is left, or when none could still beat its best that ended.
    Where none ended, its best living one is taken, cut.

    Args:
        step, cache, start_ids, max_length, eos, pad: see `greedy`.
        beams: sequences a row.
        length_penalty: sequences that ended are ranked by log-probability / length ** this, the
            length with its end (0: the most likely).
        cache_axes: the axis of rows of the cache's leaves, a prefix of its tree.
    Returns:
        ids of each row's best sequence, (B, max_length).
    """
    rows = start_ids.shape[0]
    cache = _map_rows(lambda x, axis: jnp.repeat(x, beams, axis), cache, cache_axes)
    rank = jnp.arange(2 * beams)[None]
    # A score below NEVER: no beam. At first all beams would be the same.
    scores = jnp.broadcast_to(jnp.where(rank[:, :beams] == 0, 0.0, 2 * NEVER), (rows, beams))
    ids = jnp.full((rows, beams, max_length), pad, jnp.int32)
    last = jnp.repeat(start_ids.astype(jnp.int32), beams)
    ended = (ids, jnp.full((rows, beams), -jnp.inf))

    def going(state: Any) -> Array:
        _, scores, _, _, ended, index = state
        # Further ids make a sequence less likely, and its length at most max_length.
        lengths = jnp.stack([index + 1, jnp.int32(max_length)]).astype(jnp.float32)
        hope = jnp.max(scores[:, :1] / (lengths**length_penalty)[None], axis=1)
        open_rows = (scores[:, 0] > NEVER) & (hope > ended[1][:, 0])
        return (index < max_length) & jnp.any(open_rows)

    def body(state: Any) -> Any:
        ids, scores, last, cache, ended, index = state
        logits, cache = step(last, cache, index)
        size = logits.shape[-1]
        logp = jax.nn.log_softmax(logits, axis=-1).reshape(rows, beams, size)
        total = (scores[:, :, None] + logp).reshape(rows, beams * size)
        best, where = jax.lax.top_k(total, 2 * beams)  # every beam ends once at most
        parent, new = where // size, (where % size).astype(jnp.int32)
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
        last = jnp.take_along_axis(new, chosen, axis=1).reshape(-1)
        source = jnp.take_along_axis(parent, chosen, axis=1) + beams * jnp.arange(rows)[:, None]
        source = source.reshape(-1)
        cache = _map_rows(lambda x, axis: jnp.take(x, source, axis, mode="clip"), cache, cache_axes)
        return ids, scores, last, cache, ended, index + 1

    state = (ids, scores, last, cache, ended, jnp.int32(0))
    ids, _, _, _, ended, _ = jax.lax.while_loop(going, body, state)
    return jnp.where(jnp.isfinite(ended[1][:, :1]), ended[0][:, 0], ids[:, 0])


def _best(
    ids: Int[Array, "B K T"], scores: Float[Array, "B K"], count: int
) -> tuple[Int[Array, "B C T"], Float[Array, "B C"]]:
    scores, chosen = jax.lax.top_k(scores, count)
    return jnp.take_along_axis(ids, chosen[:, :, None], axis=1), scores


def _map_rows(f: Callable[[Array, int], Array], cache: Any, axes: Any) -> Any:
    """f(leaf, its axis of rows) of every leaf."""
    return jax.tree.map(lambda axis, part: jax.tree.map(lambda x: f(x, axis), part), axes, cache)


def mask_unused(logits: Float[Array, "... V"], num_tokens: int) -> Float[Array, "... V"]:
    """Makes ids that the tokenizer does not have impossible to generate."""
    if num_tokens >= logits.shape[-1]:
        return logits
    unused = jnp.arange(logits.shape[-1]) >= num_tokens
    unused = unused.reshape((1,) * (logits.ndim - 1) + unused.shape)
    return jnp.where(unused, jnp.float32(NEVER), logits)
