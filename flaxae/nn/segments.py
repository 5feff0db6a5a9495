"""One token axis for rows of one or several lengths.

Position-wise layers run on one token axis (N, D). If a batch has rows of several lengths, that
axis is the concatenation of its segments, `((rows, length), ...)`, so every matmul is one large 2-D
product; only the attention itself looks at each segment's (rows, length).
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

Segments = tuple[tuple[int, int], ...]  # (rows, length) of each


def split_segments(x: Float[Array, "N ..."], segments: Segments) -> list[Array]:
    """Split the token axis: (N, ...) -> [(rows, length, ...), ...]."""
    out, start = [], 0
    for rows, length in segments:
        part = x if len(segments) == 1 else jax.lax.slice_in_dim(x, start, start + rows * length)
        out.append(rearrange(part, "(R S) ... -> R S ...", R=rows, S=length))
        start += rows * length
    return out


def join_segments(parts: list[Array]) -> Float[Array, "N ..."]:
    """Join segments on one token axis: [(rows, length, ...), ...] -> (N, ...)."""
    flat = [rearrange(part, "R S ... -> (R S) ...") for part in parts]
    return flat[0] if len(flat) == 1 else jnp.concatenate(flat)
