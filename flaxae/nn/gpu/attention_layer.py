"""An attention layer's arguments, arranged for the attention kernel."""

from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from flaxae.nn.bias import Bias, bias_terms
from flaxae.nn.gpu.attention import fused_attention, supported
from flaxae.nn.gpu.joined import joinable, joined_product
from flaxae.nn.linear import Linear
from flaxae.nn.segments import Segments


def attention_heads(
    x: Float[Array, "N D"],
    memory: Float[Array, "M D"] | None,
    projections: tuple[Linear, Linear, Linear],
    bias: Sequence[Bias],
    num_heads: int,
    segments: Segments,
    memory_segments: Segments,
) -> Float[Array, "N HK"] | None:
    """Return the heads, or None if unsupported; see `flaxae.nn.gpu.fused_attention`."""
    q, k, v = projections
    if not joinable(q, k, v):
        return None
    width = q.kernel.shape[1] // num_heads
    if not supported(num_heads, width, segments, memory_segments):
        return None
    terms = _tables_and_mask(num_heads, segments, memory_segments, bias)
    if terms is None:
        return None
    if memory is None:
        joined = [joined_product(x, q, k, v)]
    else:
        joined = [joined_product(x, q), joined_product(memory, k, v)]
    sides = {"queries": segments, "keys": memory_segments}
    return fused_attention(joined, *terms, heads=num_heads, width=width, **sides)


def _tables_and_mask(
    num_heads: int, segments: Segments, memory_segments: Segments, bias: Sequence[Bias]
) -> tuple[list[Float[Array, "H S T"]], Float[Array, "M"] | None] | None:
    """Return the bias table of each segment and the mask of all keys, or None for other terms."""
    tables, masks = [], []
    for entry, (rows, length), (_, width) in zip(bias, segments, memory_segments, strict=True):
        terms = bias_terms(entry)
        table = [t[0] for t in terms if t.shape == (1, num_heads, length, width)]
        mask = [rearrange(t, "B 1 1 T -> (B T)") for t in terms if t.shape == (rows, 1, 1, width)]
        if len(table) > 1 or len(mask) > 1 or len(table) + len(mask) < len(terms):
            return None
        tables += table
        masks += mask
    if {len(tables), len(masks)} - {0, len(segments)}:
        return None
    return tables, jnp.concatenate(masks) if masks else None
