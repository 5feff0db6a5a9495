"""Pooled states of a frozen language model, computed once per text and kept in one file per split.

They are all that the encoder's trained part reads, so that a train step runs the language model
only as the decoder.
"""

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flaxae.activations.collect import padded_lengths
from flaxae.data.loader import TextSource
from flaxae.data.text import digest
from flaxae.data.tokenizer import PAD
from flaxae.data.tokens import TokenTable

ROWS = 32  # texts per call of the language model
LENGTHS = 4  # padded lengths, each of which is compiled
_EVERY = 20.0  # seconds between two lines on the progress
_RECIPE = "pooled-1"  # part of the file's name: change it when `pooling.pooled_states` changes


def pooled_texts(
    model: nnx.Module,
    pool: Callable[[Any, Any], Any],
    table: TokenTable,
    length: int,
    width: int,
) -> Float[np.ndarray, "N F"]:
    """Return the pooled states of texts, float16.

    Args:
        model: the language model.
        pool: function of the model and ids, (B, S), that returns pooled states, (B, F).
        table: ids of the texts, without EOS.
        length: maximum number of tokens per text, EOS included; longer texts are cut.
        width: F.
    """
    graphdef, state = nnx.split(model)
    call = jax.jit(lambda state, ids: pool(nnx.merge(graphdef, state), ids))
    counts = np.minimum(table.lengths + 1, length)
    order = np.argsort(counts, kind="stable")
    batches = [order[i : i + ROWS] for i in range(0, len(order), ROWS)]
    widths = padded_lengths([int(counts[batch[-1]]) for batch in batches], LENGTHS)
    out = np.zeros((len(table), width), np.float16)
    start = last = time.perf_counter()
    for i, (batch, size) in enumerate(zip(batches, widths, strict=True)):
        rows = np.concatenate([batch, np.repeat(batch[-1:], ROWS - len(batch))])
        ids = np.full((ROWS, size), PAD, np.int32)
        part = table.padded(rows, min(size, length))
        ids[:, : part.shape[1]] = part
        out[batch] = np.asarray(call(state, ids))[: len(batch)].astype(np.float16)
        now = time.perf_counter()
        if now - last > _EVERY:
            left = (now - start) / (i + 1) * (len(batches) - i - 1)
            done = f"{(i + 1) * ROWS} of {len(table)} texts"
            print(f"states: {done}, {left:.0f} s left", file=sys.stderr, flush=True)
            last = now
    return out


def stored(
    folder: str, key: list[str], table: TokenTable, compute: Callable[[], np.ndarray]
) -> Float[np.ndarray, "N F"]:
    """Return states from a file, which is written at the first call.

    Args:
        folder: folder of the files; "": none are read or written.
        key: everything but the texts on which the states depend.
        table: ids of the texts.
        compute: function that returns the states.
    """
    if not folder:
        return compute()
    texts = hashlib.sha256(table.ids.tobytes() + table.starts.tobytes()).hexdigest()
    path = Path(folder) / "lm_states" / f"{digest([_RECIPE, *key, texts])}.safetensors"
    if path.is_file():
        try:
            return load_file(path)["states"]
        except (SafetensorError, KeyError):
            pass  # a damaged file: the states are computed again and the file is replaced
    found = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{time.time_ns()}.tmp")
    save_file({"states": found}, temporary)
    temporary.replace(path)
    return found


class StatesSource:
    """The batches of a `TextSource` with the pooled states of each row.

    A batch is {"016": {"ids", "weight", "states": float32 (rows, F)}, ...}. Rows that only fill up
    a batch have states 0.

    Args:
        source: the texts.
        table: ids of its texts, without EOS.
        states: pooled states of the same texts.
        length: maximum number of tokens per text, EOS included.
    """

    def __init__(
        self, source: TextSource, table: TokenTable, states: Float[np.ndarray, "N F"], length: int
    ):
        self._source, self._states = source, states
        self.num_batches, self.batches_per_epoch = source.num_batches, source.batches_per_epoch
        self.fingerprint, self.edges, self.kept = source.fingerprint, source.edges, source.kept
        self._rows: dict[bytes, int] = {}
        for i, (first, stop) in enumerate(zip(table.starts, table.starts[1:], strict=False)):
            ids = table.ids[first : min(stop, first + length - 1)]
            self._rows.setdefault(ids.tobytes(), i)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def batch_spec(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Shapes and dtypes of every batch."""
        return with_states(self._source.batch_spec, self._states.shape[1])

    def batch(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """Return the batch of a step; raise IndexError after the end of a pass."""
        out = self._source.batch(step)
        for bucket in out.values():
            ids, weight = bucket["ids"], bucket["weight"]
            counts = (ids != PAD).sum(1) - 1  # without EOS
            texts = [row[:n].tobytes() for row, n in zip(ids, counts, strict=True)]
            real = weight > 0  # other rows fill up a batch
            rows = [self._row(t) if kept else 0 for t, kept in zip(texts, real, strict=True)]
            bucket["states"] = self._states[rows].astype(np.float32) * real[:, None]
        return out

    def _row(self, text: bytes) -> int:
        """Return the row of a text's states."""
        if text not in self._rows:
            raise RuntimeError(
                "a text of a batch has no pooled states: the batches and the stored ids were made "
                "from different texts"
            )
        return self._rows[text]


def with_states(spec: dict[str, Any], width: int) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Return the shapes of batches with states of `width` numbers."""
    return {
        name: {
            **bucket,
            "states": jax.ShapeDtypeStruct((bucket["ids"].shape[0], width), np.float32),
        }
        for name, bucket in spec.items()
    }
