"""Hidden states of a language model: collected at chosen layers and positions, or replaced.

What is collected is gathered inside the scan over layers, into a buffer of the chosen layers only:
nothing of the size (layers, rows, length, width) is ever there.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.task import Context, Taps

Replace = Callable[[Array], Array]


class Recorder(Taps):
    """Collects taps of chosen layers at chosen positions, and replaces values.

    Args:
        collect: {name: path of a tap}; a path's end is enough ("blocks.out").
        layers: which layers, in the order wanted; negative ones count from the end.
        positions: of each row, (B, P); None: all positions.
        replace: {(path of a tap, layer or None for every layer): value -> value}.
    """

    def __init__(
        self,
        collect: dict[str, str] | None = None,
        layers: Sequence[int] = (),
        positions: Int[Array, "B P"] | None = None,
        replace: dict[tuple[str, int | None], Replace] | None = None,
    ):
        super().__init__()
        self.wanted, self.layers = collect or {}, tuple(layers)
        self.positions, self.replacements = positions, replace or {}
        self.stop: int | None = None  # layers that run at all; None: all of them
        self.layer: Any = None  # set by the model's scan body
        self.now: dict[str, Array] = {}  # what this layer gave
        self.states: dict[str, Float[Array, "L B P D"]] = {}  # what all chosen layers gave

    def fresh(self) -> "Recorder":
        return Recorder(self.wanted, self.layers, self.positions, self.replacements)

    def __call__(self, path: str, value: Array) -> Array:
        for (end, layer), change in self.replacements.items():
            if not _ends(path, end):
                continue
            if layer is None:
                value = change(value)
            else:
                value = jax.lax.cond(self.layer == layer, change, lambda x: x, value)
        for name, end in self.wanted.items():
            if _ends(path, end):
                self.now[name] = self._gathered(value)
        return value

    def _gathered(self, value: Array) -> Array:
        if self.positions is None:
            return value
        return jnp.take_along_axis(value, self.positions[:, :, None], axis=1)  # (B, P, D)

    def slots(self, num_layers: int) -> Int[Array, "L"]:
        """The place of each layer in the buffers; layers that are not wanted share the last."""
        for layer in (*self.layers, *(at for _, at in self.replacements if at is not None)):
            require(-num_layers <= layer < num_layers, f"layer {layer}: the model has {num_layers}")
        slots = [len(self.layers)] * num_layers
        for place, layer in enumerate(self.layers):
            slots[layer] = place
        return jnp.asarray(slots, jnp.int32)

    def resolved(self, num_layers: int) -> "Recorder":
        """The same with replacements' negative layers counted from the start."""
        replace = {
            (path, None if at is None else at % num_layers): change
            for (path, at), change in self.replacements.items()
        }
        return Recorder(self.wanted, self.layers, self.positions, replace)

    def buffers(self, shapes: dict[str, Any]) -> dict[str, Array]:
        """Empty ones for what a layer gives."""
        missing = sorted(set(self.wanted) - set(shapes))
        require(not missing, f"the model taps no {[self.wanted[name] for name in missing]}")
        places = len(self.layers) + 1
        return {n: jnp.zeros((places, *s.shape), s.dtype) for n, s in shapes.items()}

    def stored(self, buffers: dict[str, Array], slot: Int[Array, ""]) -> dict[str, Array]:
        """The buffers with what this layer gave in its place."""
        put = jax.lax.dynamic_update_index_in_dim
        return {n: put(b, self.now[n].astype(b.dtype), slot, 0) for n, b in buffers.items()}


def _ends(path: str, end: str) -> bool:
    return path == end or path.endswith(f".{end}")


def hook_path(model: Any, hook: str) -> str:
    """The tap of a hook: a name of `model.hooks`, or a tap's own path with a dot in it.

    Raises:
        ConfigError: there is no such hook.
    """
    known = f"{hook!r} is no hook; there are {', '.join(model.hooks)}, and paths of taps (a.b.out)"
    require(hook in model.hooks or "." in hook, known)
    return model.hooks.get(hook, hook)


def recorder(
    model: Any,
    hooks: Sequence[str] = (),
    layers: Sequence[int] = (),
    positions: Int[Array, "B P"] | None = None,
    replace: dict[tuple[str, int | None], Replace] | None = None,
) -> Recorder:
    """What to put into a context's `taps`, for a model called by other means than `collect`.

    Args:
        model: a language model of this package.
        hooks: of "resid_in", "resid_out", "attn_out", "mlp_pre", "mlp_post", "mlp_out", or paths.
        layers: which layers, in the order wanted.
        positions: of each row, (B, P); None: all positions.
        replace: {(hook, layer, or None for every layer): value -> value of the same shape}.
    """
    num_layers = model.config.num_layers
    collect = {hook: hook_path(model, hook) for hook in hooks}
    require(not hooks or bool(layers), "collecting needs layers")
    require(
        len({layer % num_layers for layer in layers}) == len(layers),
        f"layers {tuple(layers)} name one twice",
    )
    paths = {(hook_path(model, hook), layer): f for (hook, layer), f in (replace or {}).items()}
    return Recorder(collect, layers, positions, paths)


def collect(
    model: Any,
    ids: Int[Array, "B S"],
    ctx: Context,
    *,
    hooks: Sequence[str],
    layers: Sequence[int],
    mask: Float[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    positions: Int[Array, "B P"] | None = None,
    replace: dict[tuple[str, int | None], Replace] | None = None,
) -> tuple[Float[Array, "B S D"], dict[str, Float[Array, "L B P D"]]]:
    """Runs a model and keeps hidden states. Call it under jit.

    Args:
        model: a language model of this package, with or without adapters.
        ids, mask, segment_ids: see `CausalLM.states`.
        ctx: of the model; its taps are not used.
        hooks, layers, positions, replace: see `recorder`; positions default to all.

    Returns:
        The final states, which `model.logits` reads, and {hook: (chosen layers, B, P, width)}.
    """
    taps = recorder(model, hooks, layers, positions, replace)
    at = dataclasses.replace(ctx, taps=taps)
    final = model.states(ids, at, mask=mask, segment_ids=segment_ids)
    return final, taps.states


def last_positions(mask: Float[Array, "B S"]) -> Int[Array, "B 1"]:
    """Where each row's last real token stands, whichever side its padding is on."""
    where = jnp.arange(mask.shape[1], dtype=jnp.int32)[None]
    return jnp.max(jnp.where(mask > 0, where, 0), axis=1, keepdims=True)


def truncated(model: Any, num_layers: int) -> Any:
    """The model with its first layers only: for states that no later layer changes.

    Call it once, outside of jit: inside, the weights would be copied at every call.
    """
    have = model.config.num_layers
    require(0 < num_layers <= have, f"{num_layers} layers: the model has {have}")
    graphdef, state = nnx.split(model)
    blocks = jax.tree.map(lambda x: x[:num_layers], state["blocks"])
    short = nnx.merge(graphdef, nnx.State({**state, "blocks": blocks}))
    short.config = dataclasses.replace(model.config, num_layers=num_layers)
    return short
