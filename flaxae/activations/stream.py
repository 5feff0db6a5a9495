"""Batches of hidden states for training on them: pure functions of (seed, step).

A block is the states of some rows of tokens, computed by one pass of the language model and
shuffled; a batch is a part of a block. Nothing is saved: a resumed run computes its block again, or
reads its rows from a disk cache, which one pass fills for many hooks.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from flaxae.activations.cache import StateCache, Tap
from flaxae.activations.reader import StateReader
from flaxae.activations.token_rows import TokenRows
from flaxae.data.loader import IndexStream, with_order
from flaxae.errors import require
from flaxae.machine.preemption import stop_if_noticed

CACHED = "float16"  # part of the fingerprint of a stream with a cache, whose states are rounded


def batch_shapes(size: int, widths: Sequence[int], inputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a batch, see `StateStream`.

    Args:
        size: states per batch.
        widths: width of each input and, after them, of the target if there is one.
        inputs: number of inputs.
    """
    first = (widths[0],) if inputs == 1 else (inputs, widths[0])
    shapes: dict[str, tuple[int, ...]] = {"x": (size, *first), "weight": (size,)}
    return shapes | ({"y": (size, widths[-1])} if len(widths) > inputs else {})


@dataclasses.dataclass(frozen=True)
class StreamSizes:
    """Sizes of a stream.

    Attributes:
        batch_size: states per batch.
        block_rows: rows of tokens per block.
        model_rows: rows of tokens per pass of the model.
    """

    batch_size: int
    block_rows: int
    model_rows: int


class StateStream:
    """A Source of hidden states: {"x": (B, D) or (B, L, D), "y": (B, D'), "weight": (B,)}.

    In training, block j has the next rows of a permutation by the seed, and is shuffled by j; each
    block gives the same number of batches, and what does not fill the last one is left out. In an
    evaluation, all states are used once; the last batch of a block is padded with weight 0.

    With a cache, the order is the same; states are rounded to float16. Shards that the cache lacks
    are computed when a block needs them. Before the first batch of training, which may take long,
    the time that is left is printed, and a signal stops the run after a shard.

    Attributes:
        rows: the tokens.
        num_batches: None in training.
        fingerprint: hash of tokens, taps, model, sizes and seed.
    """

    def __init__(
        self,
        reader: StateReader,
        rows: TokenRows,
        sizes: StreamSizes,
        *,
        inputs: Sequence[Tap],
        target: Tap | None = None,
        model_fingerprint: str,
        seed: int,
        train: bool,
        cache: str | Path = "",
    ):
        """Plan the blocks; no state is computed.

        Args:
            reader: reader of the inputs, and of the target after them.
            rows: the tokens.
            sizes: rows per block and states per batch.
            inputs: the input; several have an axis of their own, and one width.
            target: a transcoder's target.
            model_fingerprint: fingerprint of the model's files, and the types that it runs in.
            seed: seed of the order.
            train: whether batches are endless and shuffled.
            cache: folder of a `StateCache`; "": none.

        Raises:
            ConfigError: if a block has too few states for a batch.
        """
        self._reader, self.rows, self.sizes, self._train = reader, rows, sizes, train
        self._inputs, self._has_target = len(inputs), target is not None
        wanted = [*inputs, *([] if target is None else [target])]
        require(len(reader.taps) == len(wanted), "the reader's taps are not inputs and target")
        require(
            sizes.block_rows % sizes.model_rows == 0,
            f"rows per block ({sizes.block_rows}) are not a multiple of rows per pass "
            f"({sizes.model_rows})",
        )
        total, count = len(rows.ids), sizes.block_rows
        self._row_order = IndexStream(total, count, f"{seed}/states", train)
        used, size = int(rows.use.sum()), sizes.batch_size
        if train:
            per_block = int(used / total * min(count, total)) // size
            require(
                per_block > 0,
                f"a block of {count} rows has {used / total * count:.0f} states on average, fewer "
                f"than a batch of {size}: raise rows per block, or give more text",
            )
            self.num_batches = None
        else:
            most = max(int(rows.use[i : i + count].sum()) for i in range(0, total, count))
            per_block = max(1, -(-most // size))
            self.num_batches = per_block * -(-total // count)
        self.batches_per_block = per_block

        def hashed(cached: str) -> str:
            parts = (seed, train, dataclasses.astuple(sizes), wanted, cached)
            sha = hashlib.sha256(repr(parts).encode())
            for array in rows:
                sha.update(np.ascontiguousarray(array).tobytes())
            sha.update(model_fingerprint.encode())
            return with_order(sha.hexdigest()[:16], train)

        self.fingerprint = hashed(CACHED if cache else "")
        self._order_key = hashed("")  # the order is that of a stream without a cache
        self._cache = StateCache(cache, model_fingerprint, rows) if cache else None
        self._last: tuple[int, list[np.ndarray], np.ndarray] | None = None

    @property
    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of every batch."""
        return {
            name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in self._shapes().items()
        }

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return batch_shapes(self.sizes.batch_size, self.widths, self._inputs)

    @property
    def widths(self) -> list[int]:
        """Width of each tap."""
        if not hasattr(self, "_widths"):
            self._widths = self._reader.widths(self.rows.ids.shape[1])
        return self._widths

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Return the batch of a step.

        Raises:
            IndexError: after the end of a pass.
        """
        if step < 0 or (self.num_batches is not None and step >= self.num_batches):
            raise IndexError(f"batch {step} of a stream with {self.num_batches or 'endless'}")
        number, part = divmod(step, self.batches_per_block)
        if self._last is None or self._last[0] != number:
            states = self._block(number)
            count = len(states[0])
            self._last = (number, states, self._order(number, count))
        _, states, order = self._last
        size = self.sizes.batch_size
        chosen = order[part * size : (part + 1) * size]
        out = {name: np.zeros(shape, np.float32) for name, shape in self._shapes().items()}
        out["weight"][: len(chosen)] = 1
        for i in range(self._inputs):
            place = out["x"] if self._inputs == 1 else out["x"][:, i]
            place[: len(chosen)] = states[i][chosen]
        if self._has_target:
            out["y"][: len(chosen)] = states[-1][chosen]
        return out

    def _order(self, number: int, count: int) -> np.ndarray:
        """Return the order of a block's states: shuffled in training."""
        if not self._train:
            return np.arange(count)
        key = hashlib.blake2b(f"{self._order_key}/{number}".encode(), digest_size=16).digest()
        return np.random.RandomState(np.frombuffer(key, "<u4")).permutation(count)

    def _block(self, number: int) -> list[Float[np.ndarray, "M D"]]:
        """Return the used states of a block, per tap."""
        indices = self._row_order[number]
        if self._cache is None:
            return used_states(self._reader, self.rows, indices)
        shards = self._cache.shards_of(indices)
        if self._train and self._last is None:  # this may be a pass over nearly all texts
            todo = [n for n in shards if self._cache.missing(self._reader.taps, n)]
            show = progress("states of train", len(todo))

            def after(number: int) -> None:
                show(number)
                stop_if_noticed("the states of the cache were computed")

            fill(self._cache, self._reader, todo, after)
        else:
            fill(self._cache, self._reader, shards)
        return [self._cache.read(tap, indices) for tap in self._reader.taps]


def used_states(
    reader: StateReader, rows: TokenRows, indices: np.ndarray | slice
) -> list[Float[np.ndarray, "M D"]]:
    """Return the states of the used tokens of rows, per tap, float32.

    Args:
        reader: reader of the taps.
        rows: the tokens.
        indices: the rows.
    """
    ids, mask, use = (x[indices] for x in rows)
    missing = -len(ids) % reader.rows
    if missing:  # rows that only fill the last pass: one real token, no state is used
        ids = np.concatenate([ids, np.repeat(ids[-1:], missing, axis=0)])
        filler = np.zeros((missing, mask.shape[1]), np.float32)
        filler[:, 0] = 1
        mask = np.concatenate([mask, filler])
    states = reader(ids, mask)
    return [x[: len(use)][use].astype(np.float32) for x in states]


def fill(
    cache: StateCache,
    reader: StateReader,
    shards: Sequence[int] | None = None,
    after: Callable[[int], Any] = lambda number: None,
) -> int:
    """Compute the states that a cache lacks, those of all taps in one pass of the model.

    An interrupted call continues with the shards that are missing.

    Args:
        cache: the cache.
        reader: reader of the taps.
        shards: numbers of the shards; None: all.
        after: called with the number of each shard that was computed.

    Returns:
        The number of shards that were computed.

    Raises:
        ConfigError: if a file of the cache is broken.
    """
    new = 0
    for number in range(cache.num_shards) if shards is None else shards:
        if missing := cache.missing(reader.taps, number):
            states = used_states(reader, cache.rows, cache.of_shard(number))
            for tap, x in zip(reader.taps, states, strict=True):
                if tap in missing:
                    cache.write(tap, number, x)
            new += 1
            after(number)
    return new


def progress(name: str, total: int) -> Callable[[int], None]:
    """Return a function that prints the time that is left, after each shard of a cache.

    Args:
        name: what is computed.
        total: number of shards that are to be computed, at most.
    """
    began, done = time.monotonic(), []

    def show(number: int) -> None:
        done.append(number)
        minutes = (time.monotonic() - began) / 60
        left = minutes / len(done) * (total - len(done))
        print(
            f"{name}: shard {len(done)} of {total}, {minutes:.1f} min, about {left:.0f} min left",
            flush=True,
        )

    return show
