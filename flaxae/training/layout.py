"""The layout of a model's variables: a module as nested dicts of arrays, and back."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from flaxae.config import Config
from flaxae.task import Carry, StreamCarry, Task
from flaxae.tree import lookup, nest

PARTS = ("once", "stream", "params", "frozen")  # Carry, StreamCarry, trained variables, the rest
Seed = int | Array


@dataclasses.dataclass(frozen=True)
class Layout:
    """A model's structure without its values.

    Attributes:
        graphdef: the module's static part.
        templates: part -> path -> abstract variable; the parts are PARTS.
    """

    graphdef: Any
    templates: dict[str, dict[tuple, Any]]

    def merge(
        self, params: dict[str, Any], carry: dict[str, Any], frozen: dict[str, Any]
    ) -> nnx.Module:
        """Return the model that has these values.

        Call it inside a trace: the model's variables belong to that trace.
        """
        trees = {
            "once": carry["once"],
            "stream": carry["stream"],
            "params": params,
            "frozen": frozen,
        }
        states = []
        for part, template in self.templates.items():
            flat = {path: var.replace(lookup(trees[part], path)) for path, var in template.items()}
            states.append(nnx.State.from_flat_path(flat))
        return nnx.merge(self.graphdef, *states)

    def carry_of(self, model: nnx.Module) -> dict[str, Any]:
        """Return the values of a model's Carry ("once") and StreamCarry ("stream") variables."""
        _, once, stream, _ = nnx.split(model, Carry, StreamCarry, ...)
        return {"once": _nested(once), "stream": _nested(stream)}

    def shapes(self, part: str) -> dict[str, Any]:
        """Return the shapes and dtypes of one of the PARTS as nested dicts."""
        return nest({path: var.get_value() for path, var in self.templates[part].items()})


def make_layout(task: Task, config: Config) -> Layout:
    """Trace `task.init` once, without computing anything."""
    captured = {}

    def trace(seed: Array) -> tuple[nnx.State, ...]:
        captured["graphdef"], states = _split(task, seed, config.frozen_seed)
        return tuple(states)

    # No array is made here: the mesh may be of devices that this machine does not have.
    states = jax.eval_shape(trace, jax.ShapeDtypeStruct((), jnp.uint32))
    templates = {name: _flat(state) for name, state in zip(PARTS, states, strict=True)}
    return Layout(captured["graphdef"], templates)


def init_model(task: Task, seed: Seed, frozen_seed: Seed) -> dict[str, Any]:
    """Draw a new model.

    Args:
        task: the task whose `init` builds the model.
        seed: seed of the trained parameters.
        frozen_seed: seed of frozen random parts.

    Returns:
        The values of all PARTS, as nested dicts.
    """
    _, states = _split(task, seed, frozen_seed)
    return dict(zip(PARTS, map(_nested, states), strict=True))


def _split(task: Task, seed: Seed, frozen_seed: Seed) -> tuple[Any, list[nnx.State]]:
    rngs = nnx.Rngs(params=jax.random.key(seed), frozen=jax.random.key(frozen_seed))
    graphdef, *states = nnx.split(task.init(rngs), Carry, StreamCarry, task.trainable, ...)
    return graphdef, states


def _flat(state: nnx.State) -> dict[tuple, Any]:
    return dict(nnx.to_flat_state(state))


def _nested(state: nnx.State) -> dict[str, Any]:
    return nest({path: var[...] for path, var in _flat(state).items()})
