"""Hidden states at the last token of many texts, without and with adapters, by few programs.

Texts are sorted by length and padded little; base and adapter rows share a batch; no layer runs
after the last that is wanted, and no score is made. What all texts begin with (a system message,
the shots of a few-shot prompt) may be read once, instead of once a text.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxae.activations import read as activations
from flaxae.errors import require
from flaxae.task import Context

MULTIPLE = 8  # of which lengths are


class Collector:
    """Collects states of a model; its programs are compiled once a length.

    Args:
        model: a language model of this package, not under jit.
        hooks, layers: see `activations.recorder`.
        sides: for each side the adapters that it uses, {name: scale}; {}: none of those that other
            sides name. The default is one side: the model as it is.
        rows: texts a batch; it has so many rows of each side.
        lengths: at most so many lengths that texts are padded to, so many programs a prefix.
        share_prefix: reads what all texts begin with once; where texts are short beside it, that
            is most of the work. A batch then has the keys and values of all layers.
    """

    def __init__(
        self,
        model: Any,
        hooks: Sequence[str],
        layers: Sequence[int],
        *,
        sides: Sequence[Mapping[str, float]] = ({},),
        rows: int = 8,
        lengths: int = 4,
        share_prefix: bool = True,
    ):
        num_layers = model.config.num_layers
        self.hooks = tuple(hooks)
        self.layers = tuple(layer % num_layers for layer in layers)
        activations.recorder(model, self.hooks, layers)  # refuses what is not there
        require(bool(hooks) and all(-num_layers <= x < num_layers for x in layers),
                f"hooks={hooks}, layers={layers}: the model has {num_layers} layers")  # fmt: skip
        self.sides, self.rows, self.lengths = [dict(s) for s in sides], rows, lengths
        self.share_prefix = share_prefix
        self._graphdef, self.state = nnx.split(model)
        self._whole, self._rest = jax.jit(self._states), jax.jit(self._following)
        self._prefix = jax.jit(self._read)

    def __call__(self, texts: Sequence[Sequence[int]]) -> dict[str, Float[np.ndarray, "E N L D"]]:
        """The states at the last token of each text.

        Args:
            texts: ids, at least one each.

        Returns:
            {hook: (sides, texts, layers, width)}, in the order of texts and layers.
        """
        require(bool(texts) and all(len(text) > 0 for text in texts), "a text without a token")
        skip = shared_prefix(texts) if self.share_prefix else 0
        cache = self._cached(texts[0][:skip]) if skip else None
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [order[i : i + self.rows] for i in range(0, len(order), self.rows)]
        widths = padded_lengths([len(texts[part[-1]]) - skip for part in parts], self.lengths)
        made = []
        for part, width in zip(parts, widths, strict=True):  # none waits for the one before
            ids, mask = _padded([texts[i][skip:] for i in part], self.rows, width)
            if cache is None:
                made.append(self._whole(self.state, ids, mask))
            else:
                made.append(self._rest(self.state, cache, ids, mask))
        out = {}
        for hook in self.hooks:
            found = [np.asarray(states[hook])[:, : len(part)]
                     for states, part in zip(made, parts, strict=True)]  # fmt: skip
            whole = np.concatenate(found, axis=1)
            out[hook] = np.empty_like(whole)
            out[hook][:, order] = whole
        return out

    def _context(self, rows: int) -> Context:
        """The scale of each row: first all rows of the first side, then those of the next."""
        names = {name for side in self.sides for name in side}
        scales = {n: np.asarray([s.get(n, 0.0) for s in self.sides], np.float32) for n in names}
        scale = {n: jnp.asarray(np.repeat(x, rows)) for n, x in scales.items()}
        return Context(jax.random.key(0), jnp.int32(0), adapter_scale=scale)

    def _recorded(self, model: Any, positions: Array, ctx: Context) -> tuple[Context, Any]:
        taps = activations.recorder(model, self.hooks, self.layers, positions)
        taps.stop = max(self.layers) + 1
        return dataclasses.replace(ctx, taps=taps), taps

    def _sorted(self, taps: Any, rows: int) -> dict[str, Array]:
        """{hook: (E, B, L, D)}"""
        sides = len(self.sides)
        return {
            hook: jnp.moveaxis(x[:, :, 0].reshape(x.shape[0], sides, rows, -1), 0, 2)
            for hook, x in taps.states.items()
        }

    def _states(self, state: Any, ids: Array, mask: Array) -> dict[str, Array]:
        model, rows = nnx.merge(self._graphdef, state), ids.shape[0]
        ids, mask = (jnp.tile(x, (len(self.sides), 1)) for x in (ids, mask))
        last = activations.last_positions(mask)
        ctx, taps = self._recorded(model, last, self._context(rows))
        model.states(ids, ctx, mask=mask)
        return self._sorted(taps, rows)

    def _read(self, state: Any, ids: Array) -> dict[str, Array]:
        """Keys and values of the prefix, a row a side."""
        model, sides = nnx.merge(self._graphdef, state), len(self.sides)
        ids = jnp.tile(ids[None], (sides, 1))
        places = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None], ids.shape)
        cache = model.init_cache(sides, ids.shape[1])
        ctx, _ = self._recorded(model, places[:, -1:], self._context(1))
        keys = jnp.ones_like(ids)
        return model.cached_states(ids, ctx, cache, 0, positions=places, keys=keys)[1]

    def _cached(self, ids: Sequence[int]) -> dict[str, Array]:
        return self._prefix(self.state, np.asarray(ids, np.int32))

    def _following(self, state: Any, cache: Any, ids: Array, mask: Array) -> dict[str, Array]:
        model, (rows, width) = nnx.merge(self._graphdef, state), ids.shape
        ids, mask = (jnp.tile(x, (len(self.sides), 1)) for x in (ids, mask))
        skip = cache["k"].shape[3]
        room = partial(jnp.pad, pad_width=((0, 0), (0, 0), (0, 0), (0, width), (0, 0)))
        cache = {n: room(jnp.repeat(x, rows, axis=1)) for n, x in cache.items()}
        places = jnp.broadcast_to(skip + jnp.arange(width, dtype=jnp.int32)[None], ids.shape)
        keys = jnp.pad((mask > 0).astype(jnp.int32), ((0, 0), (skip, 0)), constant_values=1)
        last = activations.last_positions(mask)
        ctx, taps = self._recorded(model, last, self._context(rows))
        model.cached_states(ids, ctx, cache, skip, positions=places, keys=keys)
        return self._sorted(taps, rows)


def _padded(texts: list[Sequence[int]], rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, padded on the right; rows that only fill the batch have one token."""
    ids, mask = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.float32)
    mask[:, 0] = 1
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return ids, mask


def shared_prefix(texts: Sequence[Sequence[int]]) -> int:
    """How many ids all texts begin with; each has one more at least."""
    shortest = min(map(len, texts))
    first = np.asarray(texts[0][:shortest])
    same = np.ones(shortest, bool)
    for text in texts[1:]:
        same &= np.asarray(text[:shortest]) == first
    whole = shortest if same.all() else int(np.argmin(same))
    return min(whole, shortest - 1)


def padded_lengths(lengths: Sequence[int], count: int, multiple: int = MULTIPLE) -> list[int]:
    """What batches are padded to: at most `count` lengths, with the least padding in all.

    Args:
        lengths: the longest row of each batch.
        count: how many different ones.
        multiple: of which all are.
    """
    up = [-(-length // multiple) * multiple for length in lengths]
    sizes, many = np.unique(up, return_counts=True)
    # cost[j]: of the sizes before j with the chosen lengths; the last of them is sizes[j - 1].
    cost: list[Any] = [(0.0, ()), *[(np.inf, ())] * len(sizes)]
    total = np.concatenate([[0], np.cumsum(many)])
    for _ in range(min(count, len(sizes))):
        fewer = list(cost)
        for j in range(1, len(sizes) + 1):
            tries = [(fewer[i][0] + (total[j] - total[i]) * sizes[j - 1],
                      (*fewer[i][1], int(sizes[j - 1]))) for i in range(j)]  # fmt: skip
            cost[j] = min([cost[j], *tries], key=lambda x: x[0])
    chosen = cost[-1][1]
    return [next(c for c in chosen if c >= length) for length in up]
