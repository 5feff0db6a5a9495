"""Generation by a decoder-only model: prompts of several lengths, a cache, one jitted loop."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from flaxae import decoding
from flaxae.config.ranges import COUNT, SEEDS
from flaxae.decoding import Sampling, mask_unused
from flaxae.errors import require
from flaxae.lm.chat import check_ids
from flaxae.lm.protocol import LanguageModel
from flaxae.nn.stack import unstacked
from flaxae.task import Context

BUCKET = 64  # lengths of prompts and caches are multiples of this, so that few are compiled


def left_padded(
    ids: Int[Array, "B S"], mask: Float[Array, "B S"]
) -> tuple[Int[Array, "B S"], Int[Array, "B S"]]:
    """Move padding to the left, so that all rows end with a real id.

    Returns:
        The ids and their mask.
    """
    length = ids.shape[1]
    index = jnp.arange(length, dtype=jnp.int32)[None]
    last = jnp.max(jnp.where(mask > 0, index, 0), axis=1, keepdims=True)
    source = (index + last + 1) % length
    take = functools.partial(jnp.take_along_axis, axis=1)
    return take(ids, source), take((mask > 0).astype(jnp.int32), source)


def start(
    model: LanguageModel,
    ids: Int[Array, "B S"],
    mask: Float[Array, "B S"],
    ctx: Context,
    max_new_tokens: int,
    unroll: bool = False,
) -> tuple[Int[Array, "B"], dict[str, Any]]:
    """Read the prompts into a cache, all but their last ids.

    Args:
        model: a language model.
        ids: token ids of the prompts, at least one per row.
        mask: 1 for real tokens, 0 for padding, on either side.
        ctx: context of the model.
        max_new_tokens: number of tokens to make room for.
        unroll: make a separate cache for each layer, for a `stepper` with `blocks`.

    Returns:
        The last ids, (B,), which the first step reads; and the cache {"kv", "keys", "next"}, whose
        axes of rows `cache_axes` returns.
    """
    ids, mask = left_padded(ids, mask)
    rows, length = ids.shape
    room = jnp.ones((rows, max_new_tokens), jnp.int32)
    keys = jnp.concatenate([mask, room], axis=1)  # new tokens count: no query looks ahead
    kv = model.init_cache(rows, length - 1 + max_new_tokens)
    keys = keys[:, : length - 1 + max_new_tokens]
    if length > 1:
        positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)[:, :-1]
        _, kv = model.cached_states(ids[:, :-1], ctx, kv, 0, positions=positions, keys=keys)
    kv = unstacked(kv) if unroll else kv
    return ids[:, -1], {"kv": kv, "keys": keys, "next": jnp.sum(mask, axis=1) - 1}


def before_end(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return the ids before the first one that ends a text."""
    return list(itertools.takewhile(lambda token: token not in ends, ids))


def cache_axes(cache: dict[str, Any]) -> dict[str, int]:
    """Return the axis of rows of each part of a cache."""
    return {"kv": 0 if isinstance(cache["kv"], list) else 1, "keys": 0, "next": 0}


def stepper(
    model: LanguageModel,
    ctx: Context,
    prompt_length: int,
    num_tokens: int = 0,
    blocks: list[Any] | None = None,
) -> decoding.StepFn:
    """Return the step function of `decoding`.

    Args:
        model: a language model.
        ctx: context of the model.
        prompt_length: length of the prompts with their padding.
        num_tokens: ids from this one on are never generated; 0: all ids may be.
        blocks: see `CausalLM.cached_states`.
    """

    def step(last: Array, cache: dict[str, Any], index: Array) -> tuple[Array, dict[str, Any]]:
        x, kv = model.cached_states(
            last[:, None],
            ctx,
            cache["kv"],
            prompt_length - 1 + index,
            positions=(cache["next"] + index)[:, None],
            keys=cache["keys"],
            blocks=blocks,
        )
        scores = model.logits(x[:, 0], ctx)
        return mask_unused(scores, num_tokens or scores.shape[-1]), {**cache, "kv": kv}

    return step


def generate(
    model: LanguageModel,
    ids: Int[Array, "B S"],
    mask: Float[Array, "B S"],
    ctx: Context,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    key: Key[Array, ""] | None = None,
    *,
    num_tokens: int = 0,
    ends: tuple[int, ...] = (),
    drop_ended: bool = False,
    unroll: bool = False,
) -> Int[Array, "B T"]:
    """Continue prompts, in one loop that ends when all rows have ended. Call it under jit.

    Args:
        model: a language model.
        ids: token ids of the prompts, at least one per row.
        mask: 1 for real tokens, 0 for padding, on either side.
        ctx: context of the model.
        max_new_tokens: maximum number of new ids per row.
        sampling: how ids are chosen; default greedy.
        key: random key of sampling; default `ctx.key`.
        num_tokens: ids from this one on are never generated; 0: all ids may be.
        ends: ids that end a text; (): those of the model's config.
        drop_ended: see `decoding.generate`.
        unroll: unstack the layers before the loop. That is a second copy of the weights and takes
            longer to compile, and is faster for one row on a CPU.

    Returns:
        The new ids, (B, max_new_tokens): up to and with the end's id, which is then repeated.
    """
    blocks = unstacked(model.blocks) if unroll else None
    first, cache = start(model, ids, mask, ctx, max_new_tokens, unroll)
    step = stepper(model, ctx, ids.shape[1], num_tokens, blocks)
    ends, axes = ends or tuple(model.config.eos_ids), cache_axes(cache)
    return decoding.generate(
        step,
        cache,
        first,
        max_new_tokens,
        sampling or Sampling(),
        ctx.key if key is None else key,
        eos=ends,
        pad=ends[0],
        cache_axes=axes,
        drop_ended=drop_ended,
    )


class Streamer:
    """A generator that continues one prompt and yields ids while it runs.

    It compiles once per bucket of lengths.

    Args:
        model: a language model, not under jit.
        sampling: how ids are chosen.
        num_tokens: ids from this one on are never generated; 0: all ids may be.
        ends: ids that end a text; (): those of the model's config.
        chunk: ids per part.
        unroll: see `generate`.
        context: function from a key to the model's context; default: a context of evaluation.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        *,
        num_tokens: int = 0,
        ends: tuple[int, ...] = (),
        chunk: int = 8,
        unroll: bool = False,
        context: Callable[[Array], Context] | None = None,
    ):
        self.model, self.sampling = model, sampling
        self.num_tokens, self.chunk = num_tokens, chunk
        self.ends = ends or tuple(model.config.eos_ids)
        self._context = context or (lambda key: Context(key=key, step=jnp.int32(0)))
        self._unroll = unroll
        layers = unstacked(model.blocks) if unroll else None
        # Weights are arguments: as constants they would be compiled into the program, and copied.
        self._graphdef, self._state = nnx.split((model, layers))
        self._start = jax.jit(self._prefill, static_argnames="room")
        self._advance = jax.jit(self._part, static_argnames="length", donate_argnums=1)

    def _prefill(self, weights: Any, ids: Array, mask: Array, key: Array, room: int) -> dict:
        model, _ = nnx.merge(self._graphdef, weights)
        last, cache = start(model, ids, mask, self._context(key), room, self._unroll)
        done = jnp.zeros(last.shape, bool)
        return {"last": last, "cache": cache, "done": done, "index": jnp.int32(0)}

    def _part(
        self, weights: Any, state: dict, key: Array, sampling: Sampling, length: int
    ) -> tuple[Array, dict]:
        model, blocks = nnx.merge(self._graphdef, weights)
        step = stepper(model, self._context(key), length, self.num_tokens, blocks)
        choose, ends = decoding.chooser(sampling, key), self.ends
        return decoding.advance(step, choose, state, self.chunk, eos=ends, pad=ends[0])

    def __call__(self, ids: list[int], max_new_tokens: int, seed: int = 0) -> Iterator[list[int]]:
        """Yield the new ids in parts, without the end's id.

        Args:
            ids: token ids of the prompt.
            max_new_tokens: maximum number of new ids.
            seed: seed of sampling.

        Raises:
            ConfigError: if a number is out of range, prompt and new ids are longer than the model
                was trained on, or the model does not have an id.
        """
        COUNT.check("max_new_tokens", max_new_tokens, int)
        SEEDS.check("seed", seed, int)
        check_ids([ids], self.model.config.vocab_size)
        longest = self.model.config.max_length
        require(
            len(ids) + max_new_tokens <= longest,
            f"a prompt of {len(ids)} tokens and {max_new_tokens} new ones: the model has positions "
            f"for {longest}",
        )
        length = -(-len(ids) // BUCKET) * BUCKET
        room = -(-max_new_tokens // BUCKET) * BUCKET
        gap = length - len(ids)
        row = np.asarray([[0] * gap + ids], np.int32)
        mask = np.asarray([[0] * gap + [1] * len(ids)], np.float32)
        key = jax.random.key(seed)
        state = self._start(self._state, row, mask, key, room=room)
        left = max_new_tokens
        while left > 0:
            new, state = self._advance(self._state, state, key, self.sampling, length=length)
            part = np.asarray(new)[0][:left].tolist()
            left -= len(part)
            kept = before_end(part, self.ends)
            yield kept
            if len(kept) < len(part):
                return
