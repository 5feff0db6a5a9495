"""A cache of hidden states on disk: float16, one folder per hook and layer, in shards of rows.

A shard is named by a hash of its tokens, the model and the hook: a longer text, another split or
another model adds files, and does not change those that are there.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flaxae.activations.token_rows import TokenRows
from flaxae.errors import ConfigError, require

SHARD_ROWS = 64  # rows of tokens per file, with 256 tokens and 576 features: 19 MB


class Tap(NamedTuple):
    """A hidden state: name of a hook and number of a layer."""

    hook: str
    layer: int


class StateCache:
    """The states of the used tokens of rows, for each tap in shards of consecutive rows.

    Args:
        folder: created when the first shard is written; caches of other rows may share it.
        model: fingerprint of the model's files, and the types that it runs in.
        rows: the tokens.
        shard_rows: rows per shard; the last one may have fewer.
    """

    def __init__(self, folder: str | Path, model: str, rows: TokenRows, shard_rows: int = 0):
        self.folder, self._model, self.rows = Path(folder), model, rows
        self.shard_rows = shard_rows or SHARD_ROWS
        self.num_shards = -(-len(rows.ids) // self.shard_rows)
        used = rows.use.sum(1)
        self._keys, starts = [], []
        for number in range(self.num_shards):
            of_shard = used[self.of_shard(number)]
            starts.append(np.cumsum(of_shard) - of_shard)
            sha = hashlib.sha256()
            for array in rows:
                part = np.ascontiguousarray(array[self.of_shard(number)])
                sha.update(repr((part.shape, part.dtype.str)).encode() + part.tobytes())
            self._keys.append(sha.hexdigest())
        self._starts = np.concatenate(starts)
        self._ends = self._starts + used

    def of_shard(self, number: int) -> slice:
        """Return the rows of a shard."""
        start = number * self.shard_rows
        return slice(start, min(start + self.shard_rows, len(self.rows.ids)))

    def shards_of(self, rows: Int[np.ndarray, "K"]) -> list[int]:
        """Return the shards that contain rows."""
        return sorted(set((np.asarray(rows) // self.shard_rows).tolist()))

    def _key(self, tap: Tap, number: int) -> str:
        """Return a hash of what decides the states of a shard."""
        parts = repr((self._model, tap.hook, int(tap.layer), self._keys[number]))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def path(self, tap: Tap, number: int) -> Path:
        """Return the file of a shard."""
        name = f"{number:05d}-{self._key(tap, number)}.safetensors"
        return self.folder / f"{tap.hook}.{tap.layer}" / name

    def has(self, tap: Tap, number: int) -> bool:
        """Return True if a shard is there, without reading its states.

        Raises:
            ConfigError: if the file is broken, or of other states.
        """
        if self.path(tap, number).exists():
            with self._opened(tap, number):
                return True
        return False

    def read(self, tap: Tap, rows: Int[np.ndarray, "K"]) -> Float[np.ndarray, "M D"]:
        """Return the used states of rows, in their order, float32.

        Args:
            tap: the hook and layer.
            rows: numbers of rows whose shards are there.

        Raises:
            ConfigError: if a file is broken, or of other states.
        """
        parts: list[Any] = [None] * len(rows)
        shards = np.asarray(rows) // self.shard_rows
        for number in self.shards_of(rows):
            with self._opened(tap, number) as file:
                states = file.get_slice("states")
                for place in np.flatnonzero(shards == number):
                    start, end = (int(x[rows[place]]) for x in (self._starts, self._ends))
                    parts[place] = states[start:end]
        return np.concatenate(parts).astype(np.float32)

    @contextlib.contextmanager
    def _opened(self, tap: Tap, number: int) -> Iterator[Any]:
        """Open a shard's file, and check that it belongs to these states."""
        path = self.path(tap, number)
        try:
            with safe_open(path, framework="numpy") as file:
                key = (file.metadata() or {}).get("key")
                require(
                    key == self._key(tap, number),
                    f"{path}: not the states that its name says: remove it",
                )
                yield file
        except SafetensorError as error:
            raise ConfigError(f"{path}: not a complete file ({error}): remove it") from None

    def write(self, tap: Tap, number: int, states: Float[np.ndarray, "M D"]) -> None:
        """Write a shard, whole or not at all.

        Raises:
            ConfigError: if a state is beyond float16.
        """
        path = self.path(tap, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with np.errstate(over="ignore"):
            short = states.astype(np.float16)
        require(
            bool(np.isfinite(short).all()),
            f"a state of {tap.hook} of layer {tap.layer} is beyond float16 (65,504): train without "
            "a cache, or skip the first tokens of rows",
        )
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        save_file({"states": short}, temporary, metadata={"key": self._key(tap, number)})
        os.replace(temporary, path)

    def missing(self, taps: Sequence[Tap], number: int) -> list[Tap]:
        """Return the taps whose shard is not there."""
        return [tap for tap in taps if not self.has(tap, number)]
