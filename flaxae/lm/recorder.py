"""A recorder of hidden states inside the scan over layers, and of what replaces them.

Collected states are gathered inside the scan, into a buffer that holds the chosen layers only: an
array of the size (layers, rows, length, width) never exists.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.task import Taps

Replace = Callable[[Array], Array]


class Recorder(Taps):
    """Collects taps of chosen layers at chosen positions, and replaces values.

    Args:
        collect: {name: path of a tap}; the end of a path is enough ("blocks.out").
        layers: the chosen layers, in the order of the results; negative ones count from the end.
        positions: the chosen positions of each row, (B, P); None: all positions.
        replace: {(path of a tap, layer or None for every layer): value -> value}.

    Attributes:
        stop: the number of layers that run; None: all of them.
        layer: the index of the current layer, set by the model's scan body.
        current: the states that the current layer tapped, by name.
        replaced: paths of `replace` that a tap had, shared by all copies of a recorder.
        states: the result, by name: (chosen layers, B, P, width).
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
        self.stop: int | None = None
        self.layer: Int[Array, ""] | int = 0
        self.current: dict[str, Array] = {}
        self.replaced: set[str] = set()
        self.states: dict[str, Float[Array, "L B P D"]] = {}

    @property
    def quiet(self) -> bool:
        """True if no state is collected or replaced."""
        return not self.wanted and not self.replacements

    def fresh(self) -> "Recorder":
        """Return a recorder with the same settings and no states."""
        return self._shared(Recorder(self.wanted, self.layers, self.positions, self.replacements))

    def _shared(self, other: Any) -> Any:
        """Return another recorder that notes replaced taps in the same place."""
        other.replaced = self.replaced
        return other

    def __call__(self, path: str, value: Array) -> Array:
        """Record the value of a tap if it is requested; return it, or its replacement."""
        for (end, layer), change in self.replacements.items():
            if not _ends_with(path, end):
                continue
            self.replaced.add(end)
            if layer is None:
                value = change(value)
            else:
                value = jax.lax.cond(self.layer == layer, change, lambda x: x, value)
        for name, end in self.wanted.items():
            if _ends_with(path, end):
                self.current[name] = self._gathered(value)
        return value

    def _gathered(self, value: Array) -> Array:
        if self.positions is None:
            return value
        return jnp.take_along_axis(value, self.positions[:, :, None], axis=1)  # (B, P, D)

    def slots(self, num_layers: int) -> Int[Array, "L"]:
        """Return each layer's index in the buffers; layers that are not wanted share the last."""
        for layer in (*self.layers, *(at for _, at in self.replacements if at is not None)):
            require(
                -num_layers <= layer < num_layers,
                f"layer {layer}: the model has {num_layers} layers, 0 to {num_layers - 1}",
            )
        slots = [len(self.layers)] * num_layers
        for place, layer in enumerate(self.layers):
            slots[layer] = place
        return jnp.asarray(slots, jnp.int32)

    def resolved(self, num_layers: int) -> "Recorder":
        """Return the same recorder, with the negative layers of replacements made positive."""
        replace = {
            (path, None if at is None else at % num_layers): change
            for (path, at), change in self.replacements.items()
        }
        return self._shared(Recorder(self.wanted, self.layers, self.positions, replace))

    def require_replaced(self) -> None:
        """Raise ConfigError if a layer's state was to be replaced at a tap that does not exist."""
        wanted = {end for end, layer in self.replacements if layer is not None}
        missing = sorted(wanted - self.replaced)
        require(not missing, f"the layers have no tap {', '.join(missing)}: nothing is replaced")

    def buffers(self, shapes: Mapping[str, Any]) -> dict[str, Array]:
        """Return empty buffers for what one layer taps.

        Args:
            shapes: the shape and dtype of what one layer taps, by name.

        Raises:
            ConfigError: if the model has no tap at a requested path.
        """
        missing = sorted(set(self.wanted) - set(shapes))
        require(not missing, f"the model has no tap {[self.wanted[name] for name in missing]}")
        places = len(self.layers) + 1  # the last one is for all other layers
        return {n: jnp.zeros((places, *s.shape), s.dtype) for n, s in shapes.items()}

    def keep(self, layer: int) -> None:
        """Keep what a layer tapped, in a model without a scan over all layers.

        Raises:
            ConfigError: if another chosen layer has states of another shape.
        """
        if layer not in self.layers:
            return
        for name in self.wanted:
            require(name in self.current, f"the model has no tap {self.wanted[name]!r}")
            new, old = self.current[name][None], self.states.get(name)
            require(
                old is None or old.shape[1:] == new.shape[1:],
                f"layers {self.layers}: their states differ in shape: read one layer at a time",
            )
            self.states[name] = new if old is None else jnp.concatenate([old, new])

    def stored(self, buffers: dict[str, Array], slot: Int[Array, ""]) -> dict[str, Array]:
        """Return the buffers with the current layer's states written at `slot`."""
        put = jax.lax.dynamic_update_index_in_dim
        return {n: put(b, self.current[n].astype(b.dtype), slot, 0) for n, b in buffers.items()}


def _ends_with(path: str, end: str) -> bool:
    return path == end or path.endswith(f".{end}")
