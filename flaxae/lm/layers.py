"""The blocks of a decoder-only model run one after another, with a cache and with a recorder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.activations.read import Recorder
from flaxae.nn.stack import call_blocks, scan_blocks, unstacked
from flaxae.task import Context


@dataclasses.dataclass(frozen=True)
class Where:
    """What all layers of a call share: cos and sin of the positions, what may be looked at."""

    cos: Float[Array, "B S half"]
    sin: Float[Array, "B S half"]
    bias: Float[Array, "_ 1 S T"]


class LayerCache:
    """Keys and values of one layer in a call; takes the new ones and gives all.

    Args:
        kv: {"k", "v"}, (B, G, T, K), or (L, B, G, T, K) where `layer` says which.
        index: where the new ones go.
        layer: None: k and v are this layer's own.
    """

    def __init__(self, kv: dict[str, Array], index: Any, layer: Any = None):
        self.kv, self.index, self.layer = kv, index, layer

    def update(
        self, k: Float[Array, "B G S K"], v: Float[Array, "B G S K"]
    ) -> tuple[Float[Array, "B G T K"], Float[Array, "B G T K"]]:
        """Writes new keys and values; gives those of all positions."""
        self.kv = {"k": self._put(self.kv["k"], k), "v": self._put(self.kv["v"], v)}
        k, v = self.kv["k"], self.kv["v"]
        if self.layer is None:
            return k, v
        one = jax.lax.dynamic_index_in_dim
        return one(k, self.layer, 0, False), one(v, self.layer, 0, False)

    def _put(self, whole: Array, new: Array) -> Array:
        new, zero, index = new.astype(whole.dtype), jnp.int32(0), jnp.int32(self.index)
        if self.layer is None:
            return jax.lax.dynamic_update_slice(whole, new, (zero, zero, index, zero))
        start = (self.layer, zero, zero, index, zero)
        return jax.lax.dynamic_update_slice(whole, new[None], start)


def run_layers(
    model: Any,
    x: Float[Array, "B S D"],
    ctx: Context,
    where: Where,
    cache: Any = None,
    index: Int[Array, ""] | int = 0,
    blocks: list[Any] | None = None,
) -> tuple[Float[Array, "B S D"], Any]:
    """Scans a model's blocks; keeps what `ctx.taps`, where it is a Recorder, asks for.

    Args:
        model: has `blocks` and `config`.
        x: embedded ids.
        ctx: of the model.
        where: see Where.
        cache: {"k", "v"} of all layers, a list of one a layer, or None.
        index: the place of the first id in the cache.
        blocks: the layers one by one, for a cache that is a list.

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
    single = isinstance(cache, list)

    def call(block: Any, state: Any, at: Context, xs: Any) -> tuple[Any, Any]:
        x, whole, buffers = state
        layer, slot, own = xs
        taps = at.taps
        if isinstance(taps, Recorder):
            taps.layer = layer
        kv = None
        if cache is not None:
            kv = LayerCache(own, index) if single else LayerCache(whole, index, layer)
        x = at.tap("out", block(at.tap("in", x), at, where, kv))
        if buffers and isinstance(taps, Recorder):
            buffers = taps.stored(buffers, slot)
        if kv is not None and single:
            own = kv.kv
        elif kv is not None:
            whole = kv.kv
        return (x, whole, buffers), own

    stacked_cache = None if single else cache
    first = (layers[0], slots[0], cache[0] if single else None)
    if recorder is not None and recorder.wanted:
        buffers = recorder.buffers(_shapes(model.blocks, call, (x, stacked_cache, {}), at, first))
    state = (x, stacked_cache, buffers)
    if single:
        own = [(layers[i], slots[i], part) for i, part in enumerate(cache)]
        blocks = unstacked(model.blocks) if blocks is None else blocks
        (x, _, buffers), cache = call_blocks(call, blocks, state, at, own)
    elif recorder is not None and recorder.stop is not None:
        state, _ = _first_layers(recorder.stop, call, model.blocks, state, at, (layers, slots))
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
    return x, cache


def _first_layers(
    stop: int, call: Any, blocks: Any, state: Any, at: Context, xs: tuple[Array, Array]
) -> tuple[Any, Any]:
    """`scan_blocks` of the first layers, forward only.

    Slices of the stacked weights would be copies of nearly all of them, so the scan runs over
    numbers and each layer's weights are looked up.
    """
    graphdef, params = nnx.split(blocks)

    def body(state: Any, xs: Any) -> Any:
        layer, slot = xs
        own = jax.tree.map(lambda p: jax.lax.dynamic_index_in_dim(p, layer, 0, False), params)
        taps: Any = at.taps.fresh()
        state, _ = call(nnx.merge(graphdef, own), state, at.layer(layer, taps), (layer, slot, None))
        return state, None

    return jax.lax.scan(body, state, jax.tree.map(lambda x: x[:stop], xs))


def _shapes(blocks: Any, call: Any, state: Any, at: Context, xs: Any) -> dict[str, Any]:
    """What one layer records, without computing it."""
    graphdef, params = nnx.split(blocks)

    def one(params: Any, state: Any, xs: Any) -> dict[str, Array]:
        block = nnx.merge(graphdef, jax.tree.map(lambda p: p[0], params))
        taps: Any = at.taps.fresh()
        call(block, state, at.layer(0, taps), xs)
        return taps.now

    return jax.eval_shape(one, params, state, xs)
