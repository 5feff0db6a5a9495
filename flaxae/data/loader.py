"""Random-access batches: `batch(step)` depends on (seed, step) alone, so a run resumes exactly."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import grain
import jax
import numpy as np

from flaxae.data.config import LongLines
from flaxae.data.tokenizer import EOS, PAD
from flaxae.data.tokens import TokenTable
from flaxae.errors import ConfigError

_HASHED = 65536  # rows padded at once for the fingerprint


class IndexStream:
    """Endless shuffled (train) or one ordered pass (eval) over range(size), by batch number."""

    def __init__(self, size: int, rows: int, key: str, train: bool):
        self._size, self._rows = size, rows
        self._orders = None
        self._last: dict[int, np.ndarray] = {}
        if train and size:
            seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")
            # One element an epoch, its order drawn from (seed, epoch). Shuffling rows one by one in
            # grain costs 15 us a row; this costs 1 ms an epoch and a slice a batch.
            epochs = grain.MapDataset.range(2**31).seed(seed)
            self._orders = epochs.random_map(lambda _, rng: rng.permutation(size))

    def __getitem__(self, number: int) -> np.ndarray:
        """Indices of batch `number`: `rows` of them in training, `rows` or fewer in a pass."""
        start = number * self._rows
        if self._orders is None:
            return np.arange(min(start, self._size), min(start + self._rows, self._size))
        parts, stop = [], start + self._rows
        while start < stop:  # a batch may end one epoch and begin the next
            epoch, first = divmod(start, self._size)
            parts.append(self._order(epoch)[first : first + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def _order(self, epoch: int) -> np.ndarray:
        assert self._orders is not None
        last = self._last
        if epoch not in last:
            # Replaced, not changed: another thread may be reading it.
            self._last = last = {epoch: np.asarray(self._orders[epoch])}
        return last[epoch]


class TextSource:
    """Batches of token lists, in buckets by length inside each batch.

    A batch is {"008": {"ids": int32 (rows, 8), "weight": float32 (rows,)}, ...}: one entry a
    bucket length, always with the same numbers of rows. EOS ends each row, 0 pads it; rows that
    only fill a pass's last batches hold EOS alone and weigh 0.

    Attributes:
        num_batches: of one pass; None in training, which is endless.
        batches_per_epoch: how many batches go once through the data.
        edges: the buckets' lengths; give a train source's to its eval sources, for equal shapes.
        kept: indices into token_lists of what is used, in the order of token_lists.
        skipped, truncated: how many were longer than the longest length.
        fingerprint: a hash of the data and of all that orders it.
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
        """Sorts and cuts the data once; rows are padded when a batch asks for them.

        Beside the table of ids it holds 16 bytes a text.

        Args:
            token_lists: ids of each text, without EOS.
            batch_size: rows of a batch, over all buckets.
            max_length: longest row, EOS included.
            num_buckets: parts of equal size that the sorted data is cut into; with bucket_edges
                the parts that those lengths share a batch by.
            seed: of the order of training.
            train: endless and shuffled, or one pass in order.
            long_lines: skip or truncate what is longer; both are counted.
            edges: lengths of the buckets, one for each, ascending; None: from the data.
            bucket_edges: fixed lengths; each has rows in proportion to its texts, one part at
                least, and one without texts is left out. (): the parts' own longest.

        Raises:
            ConfigError: sizes that do not divide, or no data left.
        """
        if batch_size % num_buckets:
            raise ConfigError(
                f"data.batch_size={batch_size} is not divisible by data.num_buckets={num_buckets}"
            )
        if edges is not None and len(edges) != num_buckets:
            raise ConfigError(f"edges={tuple(edges)} are not {num_buckets} lengths of buckets")
        longest = max_length if edges is None else min(max_length, edges[-1])
        self._table = TokenTable.of(token_lists)
        lengths = self._table.lengths + 1
        too_long = int((lengths > longest).sum())
        self.skipped = too_long if long_lines is LongLines.SKIP else 0
        self.truncated = too_long - self.skipped
        self.kept = np.flatnonzero(lengths <= longest) if self.skipped else np.arange(len(lengths))
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
            edges = _shared(lengths, bucket_edges, num_buckets)
        if edges is None:
            parts = np.array_split(np.arange(len(order)), num_buckets)
            edges = [2 * math.ceil(lengths[p[-1]] / 2) for p in parts]
            limits = [0, *(int(p[-1]) + 1 for p in parts)]
        else:
            limits = [0, *(int(np.searchsorted(lengths, edge, side="right")) for edge in edges)]
        self.edges = tuple(int(e) for e in edges)
        # Buckets of one length are one entry of a batch, with the rows of all of them.
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
        self.fingerprint = sha.hexdigest()[:16]

    def __len__(self) -> int:
        """The number of texts that are used."""
        return len(self.kept)

    @property
    def batch_spec(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Shapes and types of every batch."""
        return {
            name: {
                "ids": jax.ShapeDtypeStruct((n, int(name)), np.int32),
                "weight": jax.ShapeDtypeStruct((n,), np.float32),
            }
            for name, n in self._rows.items()
        }

    def batch(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """The batch of a step. Raises IndexError past the end of a pass."""
        _check_step(step, self.num_batches)
        out = {}
        for name, rows in self._rows.items():
            indices = self._streams[name][step]
            ids = self._table.padded(self._members[name][indices], int(name))
            weight = np.ones(rows, np.float32)
            if missing := rows - len(indices):
                # A row of padding alone attends to no token: NaN, which outlives a weight of 0.
                filler = np.full((missing, ids.shape[1]), PAD, np.int32)
                filler[:, 0] = EOS
                ids = np.concatenate([ids, filler])
                weight[-missing:] = 0.0
            out[name] = {"ids": ids, "weight": weight}
        return out


class ArraySource:
    """Batches of arrays: rows of every leaf, and "weight", which is 0 where a row only pads."""

    def __init__(self, arrays: dict[str, Any], batch_size: int, seed: int = 0, train: bool = True):
        """Keeps the arrays.

        Args:
            arrays: name -> array, or a pytree of them, each (N, ...). A "weight" (N,) is kept.
            batch_size: rows of a batch.
            seed: of the order of training.
            train: endless and shuffled, or one pass in order, its last batch padded with zeros.

        Raises:
            ConfigError: there are no rows, or their numbers differ.
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
        self.fingerprint = sha.hexdigest()[:16]

    @property
    def batch_spec(self) -> dict[str, Any]:
        """Shapes and types of every batch."""

        def spec(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self._rows, *leaf.shape[1:]), leaf.dtype)

        return jax.tree.map(spec, self._arrays)

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of a step. Raises IndexError past the end of a pass."""
        _check_step(step, self.num_batches)
        indices = self._stream[step]

        def rows(leaf: np.ndarray) -> np.ndarray:
            out = np.zeros((self._rows, *leaf.shape[1:]), leaf.dtype)
            out[: len(indices)] = leaf[indices]
            return out

        return jax.tree.map(rows, self._arrays)


def _shared(lengths: np.ndarray, edges: Sequence[int], parts: int) -> list[int]:
    """Each edge as many times as it has parts: one, and then by its number of texts.

    Args:
        lengths: of the texts, ascending.
        edges: fixed lengths of buckets, ascending.
        parts: to give away, at least one for each edge.
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
