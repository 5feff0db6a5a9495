"""The scan over the blocks of a decoder-only model, with a cache and with a recorder."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.lm.attention import AttentionInputs, LayerCache
from flaxae.lm.protocol import Cache, LanguageModel
from flaxae.lm.recorder import Recorder
from flaxae.nn.stack import call_blocks, scan_blocks, unstacked
from flaxae.task import Context


def run_layers(
    model: LanguageModel,
    x: Float[Array, "B S D"],
    ctx: Context,
    inputs: AttentionInputs,
    cache: Cache | None = None,
    index: Int[Array, ""] | int = 0,
    blocks: list[Any] | None = None,
) -> tuple[Float[Array, "B S D"], Any]:
    """Run a model's blocks one after another.

    If `ctx.taps` is a `Recorder`, its `states` are filled.

    Args:
        model: a language model; its `blocks` and `config` are used.
        x: embedded ids.
        ctx: context of the model.
        inputs: inputs that the attention of all layers shares.
        cache: {"k", "v"} of all layers, a list with one such dict per layer, or None.
        index: position of the first id in the cache.
        blocks: the layers as a list, for a cache that is a list.

    Returns:
        The last layer's output, and the cache.
    """
    config, at = model.config, ctx.at("blocks")
    recorder = ctx.taps if isinstance(ctx.taps, Recorder) else None
    layers = jnp.arange(config.num_layers, dtype=jnp.int32)
    slots, buffers = layers, {}
    if recorder is not None:
        slots = recorder.slots(config.num_layers)
        at = dataclasses.replace(at, taps=recorder.resolved(config.num_layers))
    caches = cache if isinstance(cache, list) else None
    shared_cache = None if isinstance(cache, list) else cache

    def call(block: Any, state: Any, at: Context, xs: Any) -> tuple[Any, Any]:
        x, whole, buffers = state
        layer, slot, own = xs
        taps = at.taps
        if isinstance(taps, Recorder):
            taps.layer = layer
        kv = None
        if cache is not None:
            kv = LayerCache(whole, index, layer) if caches is None else LayerCache(own, index)
        x = at.tap("out", block(at.tap("in", x), at, inputs, kv))
        if buffers and isinstance(taps, Recorder):
            buffers = taps.stored(buffers, slot)
        if kv is not None and caches is not None:
            own = kv.kv
        elif kv is not None:
            whole = kv.kv
        return (x, whole, buffers), own

    if recorder is not None and recorder.wanted:
        first = (layers[0], slots[0], None if caches is None else caches[0])
        shapes = _tapped_shapes(model.blocks, call, (x, shared_cache, {}), at, first)
        buffers = recorder.buffers(shapes)
    state = (x, shared_cache, buffers)
    if caches is not None:
        xs = [(layers[i], slots[i], part) for i, part in enumerate(caches)]
        blocks = unstacked(model.blocks) if blocks is None else blocks
        (x, _, buffers), cache = call_blocks(call, blocks, state, at, xs)
    elif recorder is not None and recorder.stop is not None:
        state, _ = _scan_first_layers(recorder.stop, call, model.blocks, state, at, (layers, slots))
        x, cache, buffers = state
    else:
        xs = (layers, slots, None)
        remat, keep, unroll = config.remat, config.remat_keep, config.scan_unroll
        state, _ = scan_blocks(
            call, model.blocks, state, at, xs, remat=remat, keep=keep, unroll=unroll
        )
        x, cache, buffers = state
    if recorder is not None:
        recorder.states = {n: b[: len(recorder.layers)] for n, b in buffers.items()}
        recorder.require_replaced()
    return x, cache


def scan_recorded(
    call: Callable[[Any, Array, Context], Array],
    blocks: Any,
    x: Array,
    at: Context,
    **options: Any,
) -> Array:
    """Run the blocks of an encoder one after another; a `Recorder` in the context is filled.

    Args:
        call: (block of one layer, x, its context) -> x.
        blocks: a block made by `nn.stack.stacked`.
        x: the first layer's input.
        at: context of the blocks.
        **options: of `nn.stack.scan_blocks`.

    Returns:
        The last layer's output.
    """
    recorder = at.taps
    if not isinstance(recorder, Recorder):

        def plain(block: Any, x: Array, at: Context, _: Any) -> tuple[Array, None]:
            return call(block, x, at), None

        return scan_blocks(plain, blocks, x, at, **options)[0]
    count = jax.tree.leaves(nnx.split(blocks)[1])[0].shape[0]
    layers, slots = jnp.arange(count, dtype=jnp.int32), recorder.slots(count)
    at = dataclasses.replace(at, taps=recorder.resolved(count))

    def step(block: Any, state: Any, at: Context, xs: Any) -> tuple[Any, None]:
        x, buffers = state
        taps: Any = at.taps
        taps.layer, slot = xs[0], xs[1]
        x = call(block, x, at)
        return (x, taps.stored(buffers, slot) if buffers else buffers), None

    buffers: dict[str, Array] = {}
    if recorder.wanted:
        shapes = _tapped_shapes(blocks, step, (x, {}), at, (layers[0], slots[0], None))
        buffers = recorder.buffers(shapes)
    if recorder.stop is not None:
        state, _ = _scan_first_layers(
            recorder.stop, step, blocks, (x, buffers), at, (layers, slots)
        )
    else:
        state, _ = scan_blocks(step, blocks, (x, buffers), at, (layers, slots), **options)
    x, buffers = state
    recorder.states = {n: b[: len(recorder.layers)] for n, b in buffers.items()}
    recorder.require_replaced()
    return x


def _scan_first_layers(
    stop: int, call: Any, blocks: Any, state: Any, at: Context, xs: tuple[Array, Array]
) -> tuple[Any, Any]:
    """Scan the first `stop` layers, forward only.

    Slices of the stacked weights would be copies of nearly all of them, so the scan runs over
    layer numbers and each layer's weights are looked up.
    """
    graphdef, params = nnx.split(blocks)

    def body(state: Any, xs: Any) -> Any:
        layer, slot = xs
        own = jax.tree.map(lambda p: jax.lax.dynamic_index_in_dim(p, layer, 0, False), params)
        taps = at.taps.fresh()
        state, _ = call(nnx.merge(graphdef, own), state, at.layer(layer, taps), (layer, slot, None))
        return state, None

    return jax.lax.scan(body, state, jax.tree.map(lambda x: x[:stop], xs))


def _tapped_shapes(
    blocks: Any, call: Any, state: Any, at: Context, xs: Any
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of what one layer records, without computing it."""
    graphdef, params = nnx.split(blocks)

    def one(params: Any, state: Any, xs: Any) -> dict[str, Array]:
        block = nnx.merge(graphdef, jax.tree.map(lambda p: p[0], params))
        taps: Any = at.taps.fresh()
        call(block, state, at.layer(0, taps), xs)
        return taps.current

    return jax.eval_shape(one, params, state, xs)
