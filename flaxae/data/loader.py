"""Random-access batches: `batch(step)` depends only on (seed, step), so a run resumes exactly."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flaxae.data.config import LongLines
from flaxae.data.tokenizer import EOS, PAD
from flaxae.data.tokens import TokenTable
from flaxae.errors import ConfigError
from flaxae.task import ORDER_MARK

# Algorithm of the order in training: change it with `_permutation`.
ORDER = "mt19937-1"
_HASHED = 65536  # rows that are padded together for the fingerprint


class IndexStream:
    """Indices of batches: endless and shuffled (training), or one pass in order (evaluation)."""

    def __init__(self, size: int, rows: int, key: str, train: bool):
        self._size, self._rows = size, rows
        self._key = key
        self._shuffled = train and size > 0
        self._last: dict[int, np.ndarray] = {}

    def __getitem__(self, number: int) -> np.ndarray:
        """Return the indices of a batch: `rows` in training, up to `rows` in a single pass."""
        start = number * self._rows
        if not self._shuffled:
            return np.arange(min(start, self._size), min(start + self._rows, self._size))
        parts, stop = [], start + self._rows
        while start < stop:  # a batch may continue into the next epoch
            epoch, first = divmod(start, self._size)
            parts.append(self._order(epoch)[first : first + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def _order(self, epoch: int) -> np.ndarray:
        last = self._last
        if epoch not in last:
            # The dict is replaced, not changed, since another thread may be reading it.
            self._last = last = {epoch: _permutation(self._size, self._key, epoch)}
        return last[epoch]


class TextSource:
    """Batches of token lists, in buckets by length inside each batch.

    A batch is {"008": {"ids": int32 (rows, 8), "weight": float32 (rows,)}, ...}: one entry per
    bucket length, always with the same numbers of rows. EOS ends each row and 0 pads it. Rows that
    fill up the last batches of a pass contain only EOS and have weight 0.

    Attributes:
        num_batches: number of batches of one pass; None in training, which is endless.
        batches_per_epoch: number of batches that use all data once.
        edges: lengths of the buckets; pass those of the train source to the evaluation sources to
            give their batches the same shapes.
        kept: ascending indices of the token lists that are used.
        skipped: number of token lists left out because they are too long.
        truncated: number of token lists cut because they are too long.
        fingerprint: hash of the data and their order.
    """

    def __init__(
        self,
        token_lists: Sequence[Sequence[int]] | TokenTable,
        *,
        batch_size: int,
        max_length: int,
        num_buckets: int,
        seed: int,
        train: bool,
        long_lines: LongLines = LongLines.SKIP,
        edges: Sequence[int] | None = None,
        bucket_edges: Sequence[int] = (),
    ):
        """Sort the data by length and cut them into buckets; rows are padded by `batch`.

        The source needs 16 bytes per text besides the table of ids.

        Args:
            token_lists: ids of each text, without EOS.
            batch_size: rows per batch, over all buckets.
            max_length: length of the longest row, EOS included.
            num_buckets: number of equal parts of the sorted data; with bucket_edges the number of
                parts of a batch that those lengths share.
            seed: seed of the order in training.
            train: whether batches are endless and shuffled; else one pass in order.
            long_lines: skip or truncate longer texts; both are counted.
            edges: ascending lengths, one per bucket; None: from the data.
            bucket_edges: fixed lengths; each has rows in proportion to its texts, at least one part
                of the batch, and none if it has no texts. (): the longest text of each part.

        Raises:
            ConfigError: if batch_size is not divisible by num_buckets, or too few texts are left.
        """
        if batch_size % num_buckets:
            raise ConfigError(
                f"data.batch_size={batch_size} is not divisible by data.num_buckets={num_buckets}"
            )
        if edges is not None and len(edges) != num_buckets:
            raise ConfigError(
                f"edges={tuple(edges)}: {num_buckets} lengths are needed, one per bucket"
            )
        longest = max_length if edges is None else min(max_length, edges[-1])
        self._table = TokenTable.of(token_lists)
        lengths = self._table.lengths + 1
        too_long = int((lengths > longest).sum())
        self.skipped = too_long if long_lines is LongLines.SKIP else 0
        self.truncated = too_long - self.skipped
        self.kept = np.flatnonzero(lengths <= longest) if self.skipped else np.arange(len(lengths))
        if not len(lengths):
            raise ConfigError("there are no texts: give more data")
        if len(self.kept) < (num_buckets if edges is None and not bucket_edges else 1):
            raise ConfigError(
                f"{len(self.kept)} of {len(lengths)} texts are left for {num_buckets} length"
                f" buckets ({self.skipped} are longer than data.max_length={max_length} tokens):"
                " raise data.max_length, set data.long_lines=truncate, or give more text"
            )
        lengths = np.minimum(lengths[self.kept], longest)
        order = self.kept[np.argsort(lengths, kind="stable")]
        lengths = np.sort(lengths, kind="stable")
        if edges is None and bucket_edges:
            edges = _apportion(lengths, bucket_edges, num_buckets)
        self.edges, limits = _bucket_limits(lengths, edges, num_buckets)
        # Buckets of the same length become one entry of a batch, with the rows of all of them.
        rows: dict[int, int] = {}
        members: dict[int, list[np.ndarray]] = {}
        for edge, start, stop in zip(self.edges, limits[:-1], limits[1:], strict=True):
            rows[edge] = rows.get(edge, 0) + batch_size // num_buckets
            members.setdefault(edge, []).append(order[start:stop])
        self._rows = {f"{edge:03d}": n for edge, n in rows.items()}
        self._members = {f"{edge:03d}": np.concatenate(m) for edge, m in members.items()}
        self._streams = {
            name: IndexStream(len(m), self._rows[name], f"{seed}/{name}", train)
            for name, m in self._members.items()
        }
        passes = [math.ceil(len(m) / self._rows[name]) for name, m in self._members.items()]
        self.batches_per_epoch = max(passes)
        self.num_batches = None if train else self.batches_per_epoch
        sha = hashlib.sha256(repr((seed, train, self._rows)).encode())
        for name, m in self._members.items():
            for i in range(0, len(m), _HASHED):
                sha.update(self._table.padded(m[i : i + _HASHED], int(name)).tobytes())
        self.fingerprint = with_order(sha.hexdigest()[:16], train)

    def __len__(self) -> int:
        """Return the number of texts that are used."""
        return len(self.kept)

    @property
    def batch_spec(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Shapes and dtypes of every batch."""
        return {
            name: {
                "ids": jax.ShapeDtypeStruct((n, int(name)), np.int32),
                "weight": jax.ShapeDtypeStruct((n,), np.float32),
            }
            for name, n in self._rows.items()
        }

    def batch(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """Return the batch of a step; raise IndexError after the end of a pass."""
        _check_step(step, self.num_batches)
        out = {}
        for name, rows in self._rows.items():
            indices = self._streams[name][step]
            ids = self._table.padded(self._members[name][indices], int(name))
            weight = np.ones(rows, np.float32)
            if missing := rows - len(indices):
                # A row of only padding attends to no token and becomes NaN, even with weight 0.
                filler = np.full((missing, ids.shape[1]), PAD, np.int32)
                filler[:, 0] = EOS
                ids = np.concatenate([ids, filler])
                weight[-missing:] = 0.0
            out[name] = {"ids": ids, "weight": weight}
        return out


class ArraySource:
    """Batches of arrays: rows of every leaf, and "weight", which is 0 for rows of padding."""

    def __init__(
        self, arrays: dict[str, Any], batch_size: int, seed: int | str = 0, train: bool = True
    ):
        """Store the arrays and prepare their order.

        Args:
            arrays: name -> array or pytree of arrays, each (N, ...); "weight" (N,) is optional.
            batch_size: rows per batch.
            seed: seed of the order in training.
            train: whether batches are endless and shuffled; else one pass in order, whose last
                batch is padded with zeros.

        Raises:
            ConfigError: if there are no rows, or their numbers differ.
        """
        self._arrays = jax.tree.map(np.asarray, arrays)
        sizes = {len(leaf) for leaf in jax.tree.leaves(self._arrays)}
        if len(sizes) != 1 or sizes == {0}:
            raise ConfigError(f"arrays need the same number of rows, at least 1; found {sizes}")
        size = sizes.pop()
        if "weight" not in self._arrays:
            self._arrays = {**self._arrays, "weight": np.ones(size, np.float32)}
        self._rows = batch_size
        self._stream = IndexStream(size, batch_size, f"{seed}/arrays", train)
        self.batches_per_epoch = math.ceil(size / batch_size)
        self.num_batches = None if train else self.batches_per_epoch
        sha = hashlib.sha256(repr((seed, train, batch_size)).encode())
        for leaf in jax.tree.leaves(self._arrays):
            sha.update(repr((leaf.dtype.str, leaf.shape)).encode() + leaf.tobytes())
        self.fingerprint = with_order(sha.hexdigest()[:16], train)

    @property
    def batch_spec(self) -> dict[str, Any]:
        """Shapes and dtypes of every batch."""

        def spec(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self._rows, *leaf.shape[1:]), leaf.dtype)

        return jax.tree.map(spec, self._arrays)

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step; raise IndexError after the end of a pass."""
        _check_step(step, self.num_batches)
        indices = self._stream[step]

        def rows(leaf: np.ndarray) -> np.ndarray:
            out = np.zeros((self._rows, *leaf.shape[1:]), leaf.dtype)
            out[: len(indices)] = leaf[indices]
            return out

        return jax.tree.map(rows, self._arrays)


def _bucket_limits(
    lengths: np.ndarray, edges: Sequence[int] | None, num_buckets: int
) -> tuple[tuple[int, ...], list[int]]:
    """Return the buckets' lengths, and 0 and the end of each bucket in the sorted texts.

    Args:
        lengths: ascending lengths of the texts.
        edges: ascending lengths of the buckets; None: those of num_buckets equal parts.
        num_buckets: number of buckets.
    """
    if edges is None:
        parts = np.array_split(np.arange(len(lengths)), num_buckets)
        edges = [2 * math.ceil(lengths[p[-1]] / 2) for p in parts]
        limits = [0, *(int(p[-1]) + 1 for p in parts)]
    else:
        limits = [0, *(int(np.searchsorted(lengths, edge, side="right")) for edge in edges)]
    return tuple(int(e) for e in edges), limits


def with_order(fingerprint: str, train: bool) -> str:
    """Return a fingerprint of examples with the algorithm of their order (see `task.Source`)."""
    return f"{fingerprint}{ORDER_MARK}{ORDER}" if train else fingerprint


def _permutation(size: int, key: str, epoch: int) -> np.ndarray:
    """Return the order of an epoch, a pure function of the arguments."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    # RandomState, since numpy never changes its numbers (NEP 19), as it may those of Generator.
    rng = np.random.RandomState([*np.frombuffer(digest, "<u4"), epoch])
    return rng.permutation(size)


def _apportion(lengths: np.ndarray, edges: Sequence[int], parts: int) -> list[int]:
    """Repeat each edge once per part of a batch that it gets.

    Each edge with texts gets one part; the rest is apportioned by the numbers of texts.

    Args:
        lengths: ascending lengths of the texts.
        edges: ascending, fixed lengths of buckets.
        parts: number of parts, at least one per edge.
    """
    limits = np.searchsorted(lengths, np.asarray(edges), side="right")
    counts = np.diff(limits, prepend=0)
    used = np.asarray(edges)[counts > 0]
    counts = counts[counts > 0]
    shares = np.ones(len(used), np.int64)
    for _ in range(parts - len(used)):
        shares[np.argmax(counts / shares)] += 1
    return np.repeat(used, shares).tolist()


def _check_step(step: int, num_batches: int | None) -> None:
    if step < 0 or (num_batches is not None and step >= num_batches):
        raise IndexError(f"batch {step} of a source with {num_batches or 'endless'} batches")
