"""Lines of text as rows of bytes, and back.

A newline ends every row that was not cut, and another is read before a row's first byte, so the
vocabulary is the 256 bytes.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flaxae.data.config import LongLines
from flaxae.errors import require

BYTES, NEWLINE = 256, 10


def encode_lines(lines: list[str], length: int, long_lines: LongLines) -> dict[str, np.ndarray]:
    """Encode lines as rows of bytes, each ended by a newline and padded with zeros.

    Args:
        lines: texts of one line each.
        length: bytes per row, the newline included.
        long_lines: whether lines that do not fit are skipped, or cut (and then have no newline).

    Returns:
        "bytes" (N, length), uint8, and "length" (N,), the bytes of each row that are not padding.

    Raises:
        ConfigError: if all lines are skipped.
    """
    require(bool(lines), "there are no lines: give more data")
    raw = [line.encode("utf-8", "surrogatepass") + b"\n" for line in lines]
    if long_lines is LongLines.SKIP:
        raw = [row for row in raw if len(row) <= length]
    require(
        bool(raw),
        f"none of {len(lines)} lines has at most data.max_length={length} bytes with its newline: "
        "raise it, or set data.long_lines=truncate",
    )
    out = np.zeros((len(raw), length), np.uint8)
    for i, row in enumerate(raw):
        out[i, : len(row)] = np.frombuffer(row[:length], np.uint8)
    lengths = np.minimum([len(row) for row in raw], length).astype(np.int32)
    return {"bytes": out, "length": lengths}


def targets_and_weights(batch: Any) -> tuple[Int[Array, "B L"], Float[Array, "B L"]]:
    """Return a batch's bytes and the weight of each, 0 for padding.

    Args:
        batch: "bytes" (B, L), "length" (B,) and the rows' "weight" (B,).

    Returns:
        Bytes as int32, and weights as float32.
    """
    rows = batch["bytes"].astype(jnp.int32)
    real = jnp.arange(rows.shape[1])[None] < batch["length"][:, None]
    return rows, real.astype(jnp.float32) * batch["weight"][:, None]


def decode_row(row: np.ndarray) -> str:
    """Decode a row's bytes up to its first newline."""
    raw = bytes(row.astype(np.uint8)).split(bytes([NEWLINE]))[0]
    return raw.decode("utf-8", "replace")
