"""Modules that take an adapted module's place: the same variables, the same call, adapters beside.

The module keeps its class's name for its parameters, so a base's paths, tables, shardings and
fingerprint are the same with and without adapters.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.errors import ConfigError
from flaxae.nn.linear import Linear
from flaxae.nn.segments import Segments
from flaxae.task import Context


class AdapterParam(nnx.Variable):
    """What an adapter trains, float32."""


class LoRAParam(AdapterParam):
    """LoRA's factors, and DoRA's magnitudes."""


class IA3Param(AdapterParam):
    """IA3's factors of features."""


class BiasParam(AdapterParam):
    """A bias that takes the base's place."""


class SavedParam(AdapterParam):
    """A parameter of `modules_to_save` that takes the base's place."""


class AdapterConstant(nnx.Variable):
    """A number a layer, where an adapter differs from layer to layer; not trained."""


class RowScale:
    """The scale of each row, for models that put the tokens of all rows on one axis (T5).

    `ctx.adapter_scale[name]` may hold one instead of a plain (B,) array.

    Args:
        scale: (B,).
        segments: every layout ((rows, length), ...) that the model's layers see: the encoder's and
            the decoder's. The rows of each are all rows of the batch, in their order.
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
                    f"segments {layout} and {self._layouts[tokens]} have as many tokens: which "
                    "rows a layer's tokens belong to cannot be told; pad one of them longer"
                )

    def of(self, count: int) -> Float[Array, "N"]:
        """The scale of each of a layer's `count` tokens."""
        if count == self.scale.shape[0]:  # a token a row: cached decoding
            return self.scale
        if count not in self._layouts:
            raise ConfigError(
                f"adapter_scale: a layer sees {count} tokens, which no given segments have "
                f"({sorted(self._layouts)})"
            )
        parts, start = [], 0
        for rows, length in self._layouts[count]:
            parts.append(jnp.repeat(self.scale[start : start + rows], length))
            start += rows
        return jnp.concatenate(parts)


def row_scale(ctx: Context, name: str, x: Array) -> Array | None:
    """The scale of an adapter for each row of x, with x's number of axes; None: 1 everywhere."""
    value: Any = ctx.adapter_scale.get(name)
    if value is None:
        return None
    if isinstance(value, RowScale):
        value = value.of(x.shape[0])
    if value.shape[0] != x.shape[0]:
        raise ConfigError(
            f"adapter_scale[{name!r}] has {value.shape[0]} rows, a layer {x.shape[0]}: where a "
            "model puts the tokens of all rows on one axis, give a flaxae.peft.RowScale"
        )
    return value.astype(jnp.float32).reshape(-1, *[1] * (x.ndim - 1))


def blended(y: Array, new: Array, scale: Array | None) -> Array:
    """Y where the scale is 0, bit for bit; `new` where there is none; else between the two."""
    if scale is None:
        return new.astype(y.dtype)
    mixed = (1 - scale) * y.astype(jnp.float32) + scale * new.astype(jnp.float32)
    return jnp.where(scale == 0, y, mixed.astype(y.dtype))


def added(y: Array, delta: Array, scale: Array | None) -> Array:
    """Y + scale * delta, added in float32; y itself, bit for bit, where the scale is 0."""
    if scale is None:
        return (y.astype(jnp.float32) + delta).astype(y.dtype)
    total = (y.astype(jnp.float32) + scale * delta).astype(y.dtype)
    return jnp.where(scale == 0, y, total)


class Adapter(nnx.Module):
    """What stands beside a Linear. Of one layer; in a stack its variables have a layer axis.

    Attributes:
        layers: which of a stack's have it; (True,) outside of one.
    """

    layers: tuple[bool, ...]

    def before(self, x: Array, scale: Array | None) -> Array:
        """What the base reads."""
        return x

    def after(
        self, base: Linear, x: Array, raw: Array, y: Array, scale: Array | None, ctx: Context
    ) -> Array:
        """The output.

        Args:
            base: the Linear.
            x: what the layer was given.
            raw: what the base made.
            y: the same, as the adapters before left it.
            scale: of each row, with y's axes, or None.
            ctx: of the adapter.
        """
        return y

    def merged(
        self, kernel: Array, bias: Array | None, index: int | None
    ) -> tuple[Array, Array | None]:
        """The kernel and bias, float32, of a Linear that needs no adapter.

        Args:
            kernel, bias: the base's, of one layer.
            index: of the layer in its stack; None: it is in none.
        """
        raise NotImplementedError


def mask(layers: tuple[bool, ...]) -> AdapterConstant | None:
    """1 in the layers that have an adapter; None where all have it."""
    return None if all(layers) else AdapterConstant(jnp.asarray(layers, jnp.float32))


def layer_of(value: Any, index: int | None) -> Any:
    """A variable's value, in a stack that of one layer; numbers as they are."""
    if not isinstance(value, nnx.Variable):
        return value
    return value[...] if index is None else value[...][index]


def adapted_modules(model: Any) -> list[tuple[tuple, Any]]:
    """(path, module) of the modules that have adapters."""
    return [(p, m) for p, m in nnx.iter_modules(model) if "adapters" in vars(m)]


def chosen(module: Any, x: Array, ctx: Context) -> list[tuple[Any, Array | None, Context]]:
    """The adapters of a module that a call uses, each with its scale and context."""
    unknown = sorted(set(ctx.adapter_scale) - set(module.known))
    if unknown:
        raise ConfigError(
            f"adapter_scale: no adapter {unknown[0]!r}; there are {', '.join(module.known)}"
        )
    out = []
    for name, adapter in module.adapters.items():
        if name in ctx.adapter_scale or name in module.active:
            out.append((adapter, row_scale(ctx, name, x), ctx.at(f"adapters.{name}")))
    return out


class AdaptedLinear(Linear):
    """A Linear with adapters by name.

    Attributes:
        adapters: of this layer.
        known: the names of all adapters of the model.
        active: those used where `ctx.adapter_scale` does not name them.
    """

    base_class = Linear
    adapters: Any
    known: tuple[str, ...]
    active: tuple[str, ...]

    def __call__(self, x: Float[Array, "... I"], ctx: Context) -> Float[Array, "... O"]:
        used, read = chosen(self, x, ctx), x
        for adapter, scale, _ in used:
            read = adapter.before(read, scale)
        y = raw = self.product(read, ctx)
        for adapter, scale, at in used:
            y = adapter.after(self, x, raw, y, scale, at)
        return ctx.tap("out", y)


class Saved(nnx.Module):
    """Parameters that take the base's place: of a module to save, of a norm or a bias.

    Attributes:
        values: by the base's names.
        layers: which of a stack's have it; (True,) outside of one.
    """

    def __init__(self, values: dict[str, AdapterParam], layers: tuple[bool, ...]):
        self.values = nnx.Dict(values)
        self.layers, self.on = layers, mask(layers)

    def effective(self, name: str, base: Array, index: int | None = None) -> Array:
        """The parameter, of one layer; the base's in layers where the adapter is not."""
        value = layer_of(self.values[name], index).astype(base.dtype)
        return value if self.on is None else jnp.where(layer_of(self.on, index) > 0, value, base)


_classes: dict[type, type] = {}


def adapted_class(kind: type) -> type:
    """The class that takes the place of a module's: the same call, with adapters.

    Only the call: a head that is tied to an embedding goes on reading the base's table, as in PEFT.
    """
    if kind is Linear or kind is AdaptedLinear:
        return AdaptedLinear
    if issubclass(kind, Linear):
        raise ConfigError(f"adapters stand on Linear itself, not on {kind.__name__}")
    if kind not in _classes:
        methods = {"__call__": _call(kind), "__module__": __name__, "base_class": kind}
        _classes[kind] = type(f"Adapted{kind.__name__}", (kind,), methods)
    return _classes[kind]


def _call(kind: Any) -> Callable:
    def call(self: Any, x: Array, ctx: Context) -> Array:
        used = chosen(self, x, ctx)
        y = None if used and used[0][1] is None else kind.__call__(self, x, ctx)
        for saved, scale, _ in used:
            new = kind.__call__(_with(self, saved), x, ctx)
            y = new if scale is None or y is None else _blended_rows(y, new, scale)
        return y  # pyright: ignore

    return call


def _blended_rows(y: Array, new: Array, scale: Array) -> Array:
    """The scale has the axes of the input, which may be ids, one axis fewer than their vectors."""
    return blended(y, new, scale.reshape(scale.shape[0], *[1] * (y.ndim - 1)))


def _with(module: Any, saved: Saved) -> Any:
    """The module with the saved parameters; the module itself is not touched."""
    graphdef, state = nnx.split(module)
    flat: dict[Any, Any] = dict(nnx.to_flat_state(state))
    for name in saved.values:
        base = flat[(name,)]
        flat[(name,)] = base.replace(saved.effective(name, base[...]))
    return nnx.merge(graphdef, nnx.State.from_flat_path(flat))
