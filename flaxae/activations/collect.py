"""Hidden states at the last token of many texts, without and with adapters, in few programs.

Texts are sorted by length, so that little is padded; base and adapter rows share a batch; no layer
after the last requested one runs, and no logits are computed. A prefix that all texts share (a
system message, the examples of a few-shot prompt) may be read once, instead of once per text.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.activations import read
from flaxae.errors import require
from flaxae.lm.chat import check_ids
from flaxae.lm.protocol import LanguageModel
from flaxae.task import Context

MULTIPLE = 8  # padded lengths are multiples of this


class Collector:
    """A collector of a model's states; it compiles one program per padded length.

    Args:
        model: a language model, not under jit.
        hooks, layers: see `read.recorder`.
        sides: the adapters that each side uses, {name: scale}; {} switches off the adapters that
            other sides name. The default is one side: the model as it is.
        rows: texts per batch; a batch has this number of rows for each side.
        lengths: maximum number of lengths that texts are padded to.
        share_prefix: read the prefix that all texts share once; if the rest of the texts is short,
            this saves most of the work. A batch then holds the keys and values of all layers.

    Raises:
        ConfigError: if the model has no such hook or layer.
    """

    def __init__(
        self,
        model: LanguageModel,
        hooks: Sequence[str],
        layers: Sequence[int],
        *,
        sides: Sequence[Mapping[str, float]] = ({},),
        rows: int = 8,
        lengths: int = 4,
        share_prefix: bool = True,
    ):
        num_layers, self.vocab_size = model.config.num_layers, model.config.vocab_size
        self.hooks = tuple(hooks)
        self.layers = tuple(layer % num_layers for layer in layers)
        read.recorder(model, self.hooks, layers)  # raises for an unknown hook
        require(
            bool(hooks) and all(-num_layers <= x < num_layers for x in layers),
            f"hooks={hooks}, layers={layers}: the model has {num_layers} layers",
        )
        self.sides, self.rows, self.lengths = [dict(s) for s in sides], rows, lengths
        self.share_prefix = share_prefix
        self._graphdef, self.state = nnx.split(model)
        self._whole, self._rest = jax.jit(self._whole_texts), jax.jit(self._after_prefix)
        self._prefix = jax.jit(self._read_prefix)

    def __call__(
        self, texts: Sequence[Sequence[int]], sides: Sequence[Mapping[str, float]] | None = None
    ) -> dict[str, Float[np.ndarray, "E N L D"]]:
        """Return the states at the last token of each text.

        Args:
            texts: token ids of each text, at least one per text.
            sides: as many sides with other scales, which the same programs compute; None: those of
                the collector.

        Returns:
            {hook: (sides, texts, layers, width)}, in the order of texts and layers.

        Raises:
            ConfigError: if there are no texts, a text is empty, or an id is beyond the embedding.
        """
        require(bool(texts) and all(len(text) > 0 for text in texts), "a text without a token")
        check_ids(texts, self.vocab_size)
        skip = shared_prefix(texts) if self.share_prefix else 0
        scales, cache = self._scales(self.sides if sides is None else sides), None
        if skip:
            cache = self._prefix(self.state, np.asarray(texts[0][:skip], np.int32), scales)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        batches = [order[i : i + self.rows] for i in range(0, len(order), self.rows)]
        widths = padded_lengths([len(texts[batch[-1]]) - skip for batch in batches], self.lengths)
        results = []
        # No result is read before all batches are dispatched, so the device never waits.
        for batch, width in zip(batches, widths, strict=True):
            ids, mask = _padded([texts[i][skip:] for i in batch], self.rows, width)
            if cache is None:
                results.append(self._whole(self.state, ids, mask, scales))
            else:
                results.append(self._rest(self.state, cache, ids, mask, scales))
        out = {}
        for hook in self.hooks:
            found = [
                np.asarray(states[hook])[:, : len(batch)]
                for states, batch in zip(results, batches, strict=True)
            ]
            by_length = np.concatenate(found, axis=1)
            out[hook] = np.empty_like(by_length)
            out[hook][:, order] = by_length
        return out

    def _scales(self, sides: Sequence[Mapping[str, float]]) -> dict[str, Float[np.ndarray, " E"]]:
        """Return the scale of each adapter on each side."""
        names = {name for side in self.sides for name in side}
        return {n: np.asarray([s.get(n, 0.0) for s in sides], np.float32) for n in names}

    def _context(self, rows: int, scales: dict[str, Array]) -> Context:
        """Return a context with a scale per row: all rows of the first side, then of the next."""
        scale = {n: jnp.repeat(x, rows) for n, x in scales.items()}
        return Context(jax.random.key(0), jnp.int32(0), adapter_scale=scale)

    def _recorded(
        self, model: LanguageModel, positions: Int[Array, "B 1"], ctx: Context
    ) -> tuple[Context, read.Recorder]:
        """Return the context with a recorder of this collector's states, and the recorder."""
        taps = read.recorder(model, self.hooks, self.layers, positions)
        taps.stop = max(self.layers) + 1
        return dataclasses.replace(ctx, taps=taps), taps

    def _by_side(self, taps: read.Recorder) -> dict[str, Float[Array, "E B L D"]]:
        """Return the recorded states by hook."""
        sides = len(self.sides)
        return {
            hook: rearrange(
                x, "layers (sides rows) 1 width -> sides rows layers width", sides=sides
            )
            for hook, x in taps.states.items()
        }

    def _whole_texts(
        self, state: Any, ids: Array, mask: Array, scales: dict[str, Array]
    ) -> dict[str, Array]:
        """Return the states of a batch of whole texts."""
        model, rows = nnx.merge(self._graphdef, state), ids.shape[0]
        ids, mask = (jnp.tile(x, (len(self.sides), 1)) for x in (ids, mask))
        last = read.last_positions(mask)
        ctx, taps = self._recorded(model, last, self._context(rows, scales))
        model.states(ids, ctx, mask=mask)
        return self._by_side(taps)

    def _read_prefix(
        self, state: Any, ids: Int[Array, "S"], scales: dict[str, Array]
    ) -> dict[str, Array]:
        """Return the keys and values of the shared prefix, one row per side."""
        model, sides = nnx.merge(self._graphdef, state), len(self.sides)
        ids = jnp.tile(ids[None], (sides, 1))
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None], ids.shape)
        cache = model.init_cache(sides, ids.shape[1])
        ctx, _ = self._recorded(model, positions[:, -1:], self._context(1, scales))
        keys = jnp.ones_like(ids)
        return model.cached_states(ids, ctx, cache, 0, positions=positions, keys=keys)[1]

    def _after_prefix(
        self,
        state: Any,
        cache: dict[str, Array],
        ids: Array,
        mask: Array,
        scales: dict[str, Array],
    ) -> dict[str, Array]:
        """Return the states of a batch of texts, given the cache of their shared prefix."""
        model, (rows, width) = nnx.merge(self._graphdef, state), ids.shape
        ids, mask = (jnp.tile(x, (len(self.sides), 1)) for x in (ids, mask))
        skip = cache["k"].shape[3]
        room = partial(jnp.pad, pad_width=((0, 0), (0, 0), (0, 0), (0, width), (0, 0)))
        cache = {n: room(jnp.repeat(x, rows, axis=1)) for n, x in cache.items()}
        positions = jnp.broadcast_to(skip + jnp.arange(width, dtype=jnp.int32)[None], ids.shape)
        keys = jnp.pad((mask > 0).astype(jnp.int32), ((0, 0), (skip, 0)), constant_values=1)
        last = read.last_positions(mask)
        ctx, taps = self._recorded(model, last, self._context(rows, scales))
        model.cached_states(ids, ctx, cache, skip, positions=positions, keys=keys)
        return self._by_side(taps)


def _padded(texts: list[Sequence[int]], rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask, padded on the right; rows that only fill the batch have one token."""
    ids, mask = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.float32)
    mask[:, 0] = 1
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return ids, mask


def shared_prefix(texts: Sequence[Sequence[int]]) -> int:
    """Return the length of the prefix that all texts share, which leaves each at least one id."""
    shortest = min(map(len, texts))
    first = np.asarray(texts[0][:shortest])
    same = np.ones(shortest, bool)
    for text in texts[1:]:
        same &= np.asarray(text[:shortest]) == first
    whole = shortest if same.all() else int(np.argmin(same))
    return min(whole, shortest - 1)


def padded_lengths(lengths: Sequence[int], count: int, multiple: int = MULTIPLE) -> list[int]:
    """Return the padded length of each batch, chosen so that the total padding is least.

    Args:
        lengths: the longest row of each batch.
        count: maximum number of different padded lengths.
        multiple: every padded length is a multiple of this.
    """
    up = [-(-length // multiple) * multiple for length in lengths]
    sizes, counts = np.unique(up, return_counts=True)
    # best[j]: (total length of the batches of the first j sizes, the lengths chosen for them).
    # The last chosen length is sizes[j - 1].
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ()), *[(np.inf, ())] * len(sizes)]
    total = np.concatenate([[0], np.cumsum(counts)])
    for _ in range(min(count, len(sizes))):
        fewer = list(best)
        for j in range(1, len(sizes) + 1):
            tries = [
                (
                    fewer[i][0] + (total[j] - total[i]) * sizes[j - 1],
                    (*fewer[i][1], int(sizes[j - 1])),
                )
                for i in range(j)
            ]
            best[j] = min([best[j], *tries], key=lambda x: x[0])
    chosen = best[-1][1]
    return [next(c for c in chosen if c >= length) for length in up]
