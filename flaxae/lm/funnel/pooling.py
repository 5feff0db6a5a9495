"""Pooling of states, masks and positions by pairs, with or without a separate first token.

With `separate_cls` the first token keeps a place of its own: (x0), (x1, x2), (x3, x4), …; with
`truncate_seq` too, the last token is dropped first, so that an even length halves. Without it the
pairs are (x0, x1), (x2, x3), …; the last state of an odd length stays alone.

All lengths and positions are known when a program is traced.
"""

import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Float

from flaxae.lm.funnel.config import FunnelConfig, PoolingType


def can_pool(length: int, config: FunnelConfig) -> bool:
    """Return True if a sequence is long enough to be pooled."""
    return length > (2 if config.separate_cls else 1)


def pooled_length(length: int, config: FunnelConfig) -> int:
    """Return the length after pooling."""
    first = 1 if config.separate_cls and not config.truncate_seq else 0
    return -(-(length + first) // 2)


def block_lengths(length: int, config: FunnelConfig) -> list[int]:
    """Return the number of states in each block of a sequence of `length` tokens."""
    lengths = [length]
    for _ in config.block_sizes[1:]:
        last = lengths[-1]
        lengths.append(pooled_length(last, config) if can_pool(last, config) else last)
    return lengths


def positions(depth: int, length: int, config: FunnelConfig) -> np.ndarray:
    """Return the positions of states after `depth` poolings, those of the first token of each pair.

    A separate first token gets 1 - 2**depth, so that all positions are equally spaced.
    """
    first = 1 - 2**depth if config.separate_cls else 0
    return first + 2**depth * np.arange(length)


def paired(x: Array, config: FunnelConfig, fill: float) -> Array:
    """Arrange states by pairs.

    Args:
        x: states, (B, S, ...).
        config: the model's options.
        fill: value of the second place of a state that stays alone.

    Returns:
        The pairs, (B, pooled length, 2, ...); a separate first token is in both places of its pair.
    """
    if config.separate_cls:
        x = jnp.concatenate([x[:, :1], x[:, :-1] if config.truncate_seq else x], axis=1)
    odd = x.shape[1] % 2
    x = jnp.pad(x, ((0, 0), (0, odd), *((0, 0),) * (x.ndim - 2)), constant_values=fill)
    return rearrange(x, "B (S two) ... -> B S two ...", two=2)


def first_of_pairs(x: Array, config: FunnelConfig) -> Array:
    """Return the first value of each pair, for what is not averaged (segment ids): (B, S, ...)."""
    return paired(x, config, 0)[:, :, 0]


def pool_mask(mask: Float[Array, "B S"], config: FunnelConfig) -> Float[Array, "B P"]:
    """Return the mask of pooled states: 1 if a pair contains a real state (all, as in HF)."""
    if config.hf_compat_mask:
        return reduce(paired(mask, config, 1), "B P two -> B P", "min")
    return reduce(paired(mask, config, 0), "B P two -> B P", "max")


def pool_states(
    x: Float[Array, "B S D"], mask: Float[Array, "B S"], config: FunnelConfig
) -> Float[Array, "B P D"]:
    """Return the mean or maximum of each pair, without padding (with it, as in HF).

    Args:
        x: states.
        mask: 1 for real states, 0 for padding.
        config: the model's options.
    """
    counted = jnp.ones_like(mask) if config.hf_compat_mask else mask
    pairs = paired(x, config, 0)  # (B, P, 2, D)
    real = paired(counted, config, 0)[..., None]  # (B, P, 2, 1)
    if config.pooling_type is PoolingType.MEAN:
        real = real.astype(x.dtype)
        total = reduce(pairs * real, "B P two D -> B P D", "sum")
        return total / jnp.maximum(reduce(real, "B P two one -> B P one", "sum"), 1)
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
    top = reduce(jnp.where(real > 0, pairs, lowest), "B P two D -> B P D", "max")
    return jnp.where(reduce(real, "B P two one -> B P one", "max") > 0, top, jnp.zeros_like(top))


def repeat_states(
    x: Float[Array, "B P D"], stride: int, length: int, config: FunnelConfig
) -> Array:
    """Return states at full length, each repeated `stride` times, as Hugging Face's decoder reads.

    With `separate_cls` the first state is not repeated; with `truncate_seq` too, places behind the
    last state are 0.

    Args:
        x: states of the last block.
        stride: tokens per state.
        length: length of the result.
        config: the model's options.
    """
    if stride == 1:
        return x
    first, rest = (x[:, :1], x[:, 1:]) if config.separate_cls else (x[:, :0], x)
    rest = jnp.repeat(rest, stride, axis=1)
    if config.separate_cls and config.truncate_seq:
        rest = jnp.pad(rest, ((0, 0), (0, stride - 1), (0, 0)))
    return jnp.concatenate([first, rest[:, : length - first.shape[1]]], axis=1)
