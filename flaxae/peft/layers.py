"""Modules with adapters: the same variables and the same call as the modules that they replace.

Parameters of the base keep their paths, so tables, shardings and fingerprints are the same with and
without adapters.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.errors import ConfigError
from flaxae.nn.linear import Linear
from flaxae.peft.rows import RowScale as RowScale
from flaxae.peft.rows import added as added
from flaxae.peft.rows import blended, row_scale
from flaxae.task import Context


class AdapterParam(nnx.Variable):
    """A parameter of an adapter, float32."""


class LoRAParam(AdapterParam):
    """A factor of LoRA, or DoRA's magnitudes."""


class IA3Param(AdapterParam):
    """IA3's factors, one per feature."""


class BiasParam(AdapterParam):
    """A bias that replaces the base's."""


class SavedParam(AdapterParam):
    """A parameter of `modules_to_save` that replaces the base's."""


class AdapterConstant(nnx.Variable):
    """A number per layer, if an adapter differs between layers; not trained."""


class Adapter(nnx.Module):
    """Base class of adapters attached to a Linear.

    Its methods see one layer; in a stack its variables have a leading layer axis.

    Attributes:
        layers: for each layer of a stack, whether the adapter is in it; (True,) outside of a stack.
    """

    layers: tuple[bool, ...]

    def before(self, x: Array, scale: Array | None) -> Array:
        """Return the input of the base."""
        return x

    def after(
        self, base: Linear, x: Array, raw: Array, y: Array, scale: Array | None, ctx: Context
    ) -> Array:
        """Return the output.

        Args:
            base: the Linear.
            x: input of the layer.
            raw: output of the base.
            y: output of the base and of the adapters before this one.
            scale: scale of each row, with y's axes; None: 1 everywhere.
            ctx: context of the adapter.
        """
        return y

    def merged(
        self, kernel: Array, bias: Array | None, index: int | None
    ) -> tuple[Array, Array | None]:
        """Return the kernel and bias, float32, of a Linear that computes the same without adapter.

        Args:
            kernel: the base's kernel, of one layer.
            bias: the base's bias, of one layer.
            index: index of the layer in its stack; None: it is in no stack.
        """
        raise NotImplementedError


def mask(layers: tuple[bool, ...]) -> AdapterConstant | None:
    """Return 1 for layers with the adapter, else 0; None if all layers have it."""
    return None if all(layers) else AdapterConstant(jnp.asarray(layers, jnp.float32))


def layer_of(value: Any, index: int | None) -> Any:
    """Return a variable's value, in a stack that of one layer; plain numbers as they are."""
    if not isinstance(value, nnx.Variable):
        return value
    return value[...] if index is None else value[...][index]


def adapted_modules(model: nnx.Module) -> list[tuple[tuple, Any]]:
    """Return the path and the module of all modules with adapters."""
    return [(p, m) for p, m in nnx.iter_modules(model) if "adapters" in vars(m)]


def used_adapters(module: Any, x: Array, ctx: Context) -> list[tuple[Any, Array | None, Context]]:
    """Return the adapters of a module that a call uses, each with its scale and context."""
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
        adapters: the adapters of this layer.
        known: the names of all adapters of the model.
        active: the names of adapters that are used if `ctx.adapter_scale` does not name them.
    """

    base_class = Linear
    adapters: Any
    known: tuple[str, ...]
    active: tuple[str, ...]

    def __call__(self, x: Float[Array, "... I"], ctx: Context) -> Float[Array, "... O"]:
        """Apply the Linear and the adapters that are used."""
        used, read = used_adapters(self, x, ctx), x
        for adapter, scale, _ in used:
            read = adapter.before(read, scale)
        y = raw = self.product(read, ctx)
        for adapter, scale, at in used:
            y = adapter.after(self, x, raw, y, scale, at)
        return ctx.tap("out", y)


class ReplacedParams(nnx.Module):
    """Trained parameters that replace the base's: of a module to save, a norm, or a bias.

    Attributes:
        values: the parameters, by their names in the base.
        layers: for each layer of a stack, whether it has them; (True,) outside of a stack.
    """

    def __init__(self, values: dict[str, AdapterParam], layers: tuple[bool, ...]):
        self.values = nnx.Dict(values)
        self.layers, self.on = layers, mask(layers)

    def effective(self, name: str, base: Array, index: int | None = None) -> Array:
        """Return the parameter of one layer; the base's in layers without the adapter."""
        value = layer_of(self.values[name], index).astype(base.dtype)
        return value if self.on is None else jnp.where(layer_of(self.on, index) > 0, value, base)


class TiedHead(nnx.Module):
    """The adapter of an output head that is tied to an embedding, whose `attend` is the head.

    It is attached to the embedding, and works on a Linear whose kernel is the table, transposed.

    Attributes:
        head: adapter of the head.
        table: replaces the table where it is read by id; None: the base's is read.
    """

    def __init__(self, head: Adapter, table: ReplacedParams | None):
        self.head, self.table = head, table
        self.layers = (True,)


def tied_linear(embedding: Any) -> Linear:
    """Return the Linear that computes what an embedding's `attend` does."""
    rows, features = embedding.table.shape
    dtype = embedding.dtype
    linear = nnx.eval_shape(lambda: Linear(features, rows, dtype=dtype, rngs=nnx.Rngs(0)))
    linear.kernel = nnx.Param(embedding.table[...].T)
    return linear


def tied_heads(module: nnx.Module) -> dict[str, Adapter]:
    """Return the adapters of the head that is tied to an embedding, by their names."""
    adapters = vars(module).get("adapters", {})
    return {name: x.head for name, x in adapters.items() if isinstance(x, TiedHead)}


def _table(adapter: ReplacedParams | TiedHead) -> ReplacedParams | None:
    return adapter.table if isinstance(adapter, TiedHead) else adapter


_classes: dict[type, type] = {}


def adapted_class(kind: type) -> type:
    """Return the class that replaces a module's: the same call, with adapters.

    Other methods keep using the base's parameters, as in PEFT: a head that is tied to an embedding
    reads the base's table, unless it has an adapter itself.

    Raises:
        ConfigError: if it is a subclass of Linear, which cannot have adapters.
    """
    if kind is Linear or kind is AdaptedLinear:
        return AdaptedLinear
    if issubclass(kind, Linear):
        raise ConfigError(
            f"only Linear itself can have an adapter, not its subclass {kind.__name__}"
        )
    if kind not in _classes:
        methods = {"__call__": _call(kind), "__module__": __name__, "base_class": kind}
        methods |= {"attend": _attend(kind)} if hasattr(kind, "attend") else {}
        _classes[kind] = type(f"Adapted{kind.__name__}", (kind,), methods)
    return _classes[kind]


def _call(kind: Any) -> Callable:
    """Return the `__call__` of an adapted class."""

    def call(self: Any, x: Array, ctx: Context) -> Array:
        own = [(_table(adapter), scale, at) for adapter, scale, at in used_adapters(self, x, ctx)]
        used = [(saved, scale, at) for saved, scale, at in own if saved is not None]
        y = None if used and used[0][1] is None else kind.__call__(self, x, ctx)
        for saved, scale, _ in used:
            new = kind.__call__(_with(self, saved), x, ctx)
            y = new if scale is None or y is None else _blended_rows(y, new, scale)
        assert y is not None
        return y

    return call


def _attend(kind: Any) -> Callable:
    """Return the `attend` of an adapted embedding: a tied head with its adapters."""

    def attend(self: Any, x: Array, ctx: Context) -> Array:
        heads = tied_heads(self)
        if not heads:
            return kind.attend(self, x, ctx)
        used = [
            (adapter.head, scale, at)
            for adapter, scale, at in used_adapters(self, x, ctx)
            if isinstance(adapter, TiedHead)
        ]
        read = x
        for head, scale, _ in used:
            read = head.before(read, scale)
        y = raw = kind.attend(self, read, ctx)
        linear = tied_linear(self)
        for head, scale, at in used:
            y = head.after(linear, x, raw, y, scale, at)
        return y

    return attend


def _blended_rows(y: Array, new: Array, scale: Array) -> Array:
    """Blend vectors by a scale with the axes of the input, which may be ids, one axis fewer."""
    return blended(y, new, scale.reshape(scale.shape[0], *[1] * (y.ndim - 1)))


def _with(module: Any, saved: ReplacedParams) -> Any:
    """Return the module with replaced parameters; the module itself is not changed."""
    graphdef, state = nnx.split(module)
    flat: dict[Any, Any] = dict(nnx.to_flat_state(state))
    for name in saved.values:
        base = flat[(name,)]
        flat[(name,)] = base.replace(saved.effective(name, base[...]))
    return nnx.merge(graphdef, nnx.State.from_flat_path(flat))
