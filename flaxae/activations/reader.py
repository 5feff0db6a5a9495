"""The pass of a model that reads hidden states, on one device or split over several."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from flaxae.activations import read
from flaxae.activations.cache import Tap
from flaxae.errors import require
from flaxae.machine.sharding import batch_sharding, data_shards, infer_sharding, put, replicated
from flaxae.task import Context


class StateReader:
    """A compiled pass of a model that returns the states of taps; no layer after them runs.

    Args:
        model: a language model, or an encoder of `lm.encoders`; an abstract one is never called.
        taps: hidden states of one width or several.
        rows: rows per call.
        mesh: devices over which weights and rows are split, all on the axis fsdp; None: one device.
    """

    def __init__(self, model: Any, taps: Sequence[Tap], rows: int, mesh: Mesh | None = None):
        require(bool(taps), "name the hidden states to read")
        layers = model.config.num_layers
        self.taps, self.rows = [Tap(t.hook, t.layer % layers) for t in taps], rows
        for tap in taps:
            require(-layers <= tap.layer < layers, f"layer {tap.layer}: the model has {layers}")
            read.hook_path(model, tap.hook)  # raises for an unknown hook
        self.layers = tuple(sorted({t.layer for t in self.taps}))
        self.hooks = tuple(sorted({t.hook for t in self.taps}))
        self._graphdef, self._state = nnx.split(model)
        self._mesh, self._run = mesh, jax.jit(self._states)
        self._shardings: Any = None  # of weights that are not on the mesh yet
        if mesh is None:
            return
        require(
            rows % data_shards(mesh) == 0,
            f"{rows} rows of tokens per pass of the model are not a multiple of {mesh.size} "
            "devices: change data.model_rows",
        )
        weights, split = infer_sharding(self._state, mesh), batch_sharding(mesh)
        # Every process reads all states: its batches are those of the whole run.
        self._run = jax.jit(
            self._states, in_shardings=(weights, split, split), out_shardings=replicated(mesh)
        )
        self._shardings = weights

    def lower(self, length: int) -> Any:
        """Return the program of one pass over rows of a length, lowered but not compiled."""
        with self._context():
            return self._run.lower(self._abstract(), *self._tokens(length))

    def widths(self, length: int) -> list[int]:
        """Return the width of each tap."""
        found = jax.eval_shape(self._states, self._state, *self._tokens(length))
        return [x.shape[-1] for x in found]

    def _tokens(self, length: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        ids = jax.ShapeDtypeStruct((self.rows, length), jnp.int32)
        return ids, jax.ShapeDtypeStruct(ids.shape, jnp.float32)

    def _abstract(self) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._state)

    def _context(self) -> Any:
        """Return the context of a call: layers read the mesh when they are traced."""
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

    def __call__(
        self, ids: Int[np.ndarray, "N S"], mask: Float[np.ndarray, "N S"]
    ) -> list[Float[np.ndarray, "N S D"]]:
        """Return the states of each tap.

        Args:
            ids: token ids; their number is a multiple of `rows`.
            mask: 1 for real tokens.

        Raises:
            ConfigError: if a state has another number of positions than the tokens.
        """
        if self._shardings is not None:
            self._state, self._shardings = jax.device_put(self._state, self._shardings), None
        with self._context():
            found = [
                self._run(self._state, *self._placed(ids, mask, i))
                for i in range(0, len(ids), self.rows)
            ]
        parts = [[np.asarray(part[i]) for part in found] for i in range(len(self.taps))]
        return [np.concatenate(part) for part in parts]

    def _placed(self, ids: np.ndarray, mask: np.ndarray, start: int) -> tuple[Any, Any]:
        """Return the rows of one call, on the mesh if there is one."""
        parts = ids[start : start + self.rows], mask[start : start + self.rows]
        if self._mesh is None:
            return parts
        return tuple(put(part, batch_sharding(self._mesh)) for part in parts)  # pyright: ignore

    def _states(self, state: Any, ids: Array, mask: Array) -> list[Array]:
        model: Any = nnx.merge(self._graphdef, state)
        taps = read.recorder(model, self.hooks, self.layers)
        taps.stop = max(self.layers) + 1
        ctx = Context(jax.random.key(0), jnp.int32(0), taps=taps)
        model.states(ids, ctx, mask=mask)
        for name, x in taps.states.items():
            require(
                x.shape[2] == ids.shape[1],
                f"{name} has {x.shape[2]} states per row of {ids.shape[1]} tokens: training on "
                "pooled states is not supported",
            )
        return [taps.states[t.hook][self.layers.index(t.layer)] for t in self.taps]
