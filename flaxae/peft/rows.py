"""Scales of the rows of a batch, with which base and adapters compute one batch together."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxae.errors import ConfigError
from flaxae.nn.segments import Segments
from flaxae.task import Context


class RowScale:
    """Scales of the rows, for models that put the tokens of all rows on one axis (T5).

    It can be a value of `ctx.adapter_scale`, instead of a (B,) array.

    Args:
        scale: scale of each row, (B,).
        *segments: every layout ((rows, length), ...) of tokens in the model's layers: the encoder's
            and the decoder's. Each contains all rows of the batch, in their order.

    Raises:
        ConfigError: if a layout has another number of rows, or two layouts have the same number of
            tokens.
    """

    def __init__(self, scale: Float[Array, "B"], *segments: Segments):
        self.scale = scale
        self._layouts: dict[int, Segments] = {}
        for layout in segments:
            rows, tokens = sum(r for r, _ in layout), sum(r * n for r, n in layout)
            if rows != scale.shape[0]:
                raise ConfigError(f"segments {layout} have {rows} rows, {scale.shape[0]} scales")
            if self._layouts.setdefault(tokens, layout) != layout:
                raise ConfigError(
                    f"segments {layout} and {self._layouts[tokens]} have the same number of "
                    "tokens, so the rows of a layer's tokens are ambiguous; pad one of them more"
                )

    def per_token(self, count: int) -> Float[Array, "N"]:
        """Return the scale of each of a layer's `count` tokens."""
        if count == self.scale.shape[0]:  # one token per row: cached decoding
            return self.scale
        if count not in self._layouts:
            raise ConfigError(
                f"adapter_scale: a layer has {count} tokens, and no layout of the RowScale has "
                f"that number ({sorted(self._layouts)})"
            )
        parts, start = [], 0
        for rows, length in self._layouts[count]:
            parts.append(jnp.repeat(self.scale[start : start + rows], length))
            start += rows
        return jnp.concatenate(parts)


def row_scale(ctx: Context, name: str, x: Array) -> Array | None:
    """Return the scale of each row of x, with x's number of axes; None: 1 everywhere."""
    value: Any = ctx.adapter_scale.get(name)
    if value is None:
        return None
    if isinstance(value, RowScale):
        value = value.per_token(x.shape[0])
    if value.shape[0] != x.shape[0]:
        raise ConfigError(
            f"adapter_scale[{name!r}] has {value.shape[0]} rows, a layer {x.shape[0]}: for a model "
            "that puts the tokens of all rows on one axis, use a flaxae.peft.RowScale"
        )
    return value.astype(jnp.float32).reshape(-1, *[1] * (x.ndim - 1))


def blended(y: Array, new: Array, scale: Array | None) -> Array:
    """Interpolate from y (scale 0, bit for bit) to `new` (scale 1, or None)."""
    if scale is None:
        return new.astype(y.dtype)
    mixed = (1 - scale) * y.astype(jnp.float32) + scale * new.astype(jnp.float32)
    return jnp.where(scale == 0, y, mixed.astype(y.dtype))


def added(y: Array, delta: Array, scale: Array | None) -> Array:
    """Return y + scale * delta, added in float32; y itself, bit for bit, if the scale is 0."""
    if scale is None:
        return (y.astype(jnp.float32) + delta).astype(y.dtype)
    total = (y.astype(jnp.float32) + scale * delta).astype(y.dtype)
    return jnp.where(scale == 0, y, total)
