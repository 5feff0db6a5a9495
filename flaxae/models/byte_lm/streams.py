"""Batches of contiguous streams of bytes, for training and for one pass over a split."""

import dataclasses
import math

import jax
import numpy as np
from jaxtyping import UInt8

from flaxae.config import DataConfig
from flaxae.data.byte_corpus import SEPARATOR, ByteCorpus
from flaxae.task import ORDER_MARK

WARM_UP = 1024  # bytes that a part of a held-out split reads before its first counted byte
MIN_PART = 4096  # counted bytes of a part; a shorter split has fewer parts
ORDER = "streams-1"  # algorithm of the order in training

Batch = dict[str, np.ndarray]


@dataclasses.dataclass
class ByteDataConfig(DataConfig):
    """Bytes of the running Python's library, or of a file or folder.

    `batch_size` is the number of streams.
    """

    path: str = ""  # a text file, or a folder of them; "": the running Python's library


class TrainStreams:
    """Endless batches of B contiguous streams, which start at equal distances in a split.

    A batch is {"x": uint8 (B, U), "y": uint8 (B, U), "weight": float32 (B, U)}: bytes, the bytes
    that follow them, and ones. The next batch continues each stream. At the end of the split a
    stream continues at its beginning.

    Attributes:
        num_batches: None, since it is endless.
        fingerprint: hash of the corpus and the order.
    """

    num_batches = None

    def __init__(self, corpus: ByteCorpus, rows: int, length: int, seed: int):
        """Place the streams.

        Args:
            corpus: the data.
            rows: streams, B.
            length: bytes of each stream in a batch, U.
            seed: seed of the place where the first stream starts.

        Raises:
            ConfigError: if the split has fewer than B * U bytes.
        """
        corpus.require_length("train", rows * length + 1, "data.batch_size * task.update + 1")
        self._data = corpus.splits["train"]
        self._length = length
        size = len(self._data)
        first = np.random.default_rng(seed).integers(size)
        self._starts = (first + np.arange(rows, dtype=np.int64) * size // rows) % size  # (B,)
        order = f"{ORDER}/{seed}/{rows}/{length}"
        self.fingerprint = f"{corpus.manifest.fingerprint}{ORDER_MARK}{order}"

    @property
    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of every batch."""
        return batch_spec(len(self._starts), self._length)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step."""
        places = self._starts[:, None] + step * self._length + np.arange(self._length + 1)[None]
        found = self._data[places % len(self._data)]  # (B, U + 1)
        weight = np.ones((len(found), self._length), np.float32)
        return {"x": found[:, :-1], "y": found[:, 1:], "weight": weight}


class HeldOutStreams:
    """Batches of one pass over a split, each byte of which is predicted once.

    The split is cut into parts, one per row, which are read side by side. A part starts from a zero
    state WARM_UP bytes before its first counted byte; weights are 0 there. The first part begins
    with a separator. With a single part this is one pass from a zero state. A short split has fewer
    parts than rows; the weights of the other rows are 0.

    Attributes:
        num_batches: batches of the pass.
        fingerprint: hash of the corpus.
    """

    def __init__(self, corpus: ByteCorpus, split: str, rows: int, length: int):
        """Cut the split.

        Args:
            corpus: the data.
            split: its name.
            rows: rows of a batch.
            length: bytes of each part in a batch.
        """
        data = corpus.splits[split]
        parts = max(1, min(rows, len(data) // MIN_PART))
        self._inputs = np.concatenate([np.frombuffer(SEPARATOR, np.uint8), data])
        # Byte i of the split is predicted from inputs up to i, of which input 0 is a separator.
        ends = [len(data) * (part + 1) // parts for part in range(parts)] + [0] * (rows - parts)
        counted = [0, *ends[: parts - 1]] + [0] * (rows - parts)
        self._length, self._ends, self._counted = length, np.array(ends), np.array(counted)
        self._starts = np.maximum(0, self._counted - WARM_UP)
        self.num_batches = math.ceil(int((self._ends - self._starts).max()) / length)
        self.fingerprint = corpus.manifest.fingerprint

    @property
    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of every batch."""
        return batch_spec(len(self._starts), self._length)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step; raise IndexError after the end of the pass."""
        if not 0 <= step < self.num_batches:
            raise IndexError(f"batch {step} of {self.num_batches}")
        places = self._starts[:, None] + step * self._length + np.arange(self._length)[None]
        counted = (places >= self._counted[:, None]) & (places < self._ends[:, None])
        inside = np.minimum(places, len(self._inputs) - 2)
        x, y = self._inputs[inside], self._inputs[inside + 1]  # (B, U)
        return {"x": x, "y": y, "weight": counted.astype(np.float32)}


def one_pass(data: UInt8[np.ndarray, " n"], length: int) -> list[Batch]:
    """Return batches of a single stream that predict all bytes of a text from a zero state.

    Args:
        data: the text.
        length: bytes per batch.
    """
    count = math.ceil(len(data) / length)
    inputs = np.concatenate([np.frombuffer(SEPARATOR, np.uint8), data])
    inputs = np.pad(inputs, (0, count * length + 1 - len(inputs)))
    places = np.arange(count * length).reshape(count, 1, length)
    weight = (places < len(data)).astype(np.float32)
    return [
        {"x": inputs[i], "y": inputs[i + 1], "weight": w}
        for i, w in zip(places, weight, strict=True)
    ]


def batch_spec(rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of a batch."""
    shape = (rows, length)
    return {
        "x": jax.ShapeDtypeStruct(shape, np.uint8),
        "y": jax.ShapeDtypeStruct(shape, np.uint8),
        "weight": jax.ShapeDtypeStruct(shape, np.float32),
    }
