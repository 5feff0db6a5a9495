"""The state of a run: its layout, its values from scratch, its shapes and shardings."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from flaxae.config import Config, get_field
from flaxae.machine import sharding as sharding_lib
from flaxae.task import Carry, StreamCarry, Task
from flaxae.training import optim as optim_lib
from flaxae.tree import lookup, nest

State = dict[str, Any]
LOOP_HPARAMS = {"lr": "optim.lr", "weight_decay": "optim.weight_decay", "seed": "seed"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a model's variables are laid out: once (Carry), stream (StreamCarry), params, frozen."""

    graphdef: Any
    templates: dict[str, dict[tuple, Any]]  # part -> flat path -> abstract Variable
    opt: Any  # abstract optimizer state, for its tree structure

    def merge(self, params: Any, carry: Any, frozen: Any) -> Any:
        """The model of these values. Call it inside a trace: its variables belong to that trace."""
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

    def carry_of(self, model: Any) -> dict[str, Any]:
        _, once, stream, _ = nnx.split(model, Carry, StreamCarry, ...)
        return {"once": _nested(once), "stream": _nested(stream)}


def _flat(state: nnx.State) -> dict[tuple, Any]:
    return dict(nnx.to_flat_state(state))


def _nested(state: nnx.State) -> dict[str, Any]:
    return nest({path: var[...] for path, var in _flat(state).items()})


def _split(task: Task, seed: Any, frozen_seed: Any) -> tuple[Any, list[nnx.State]]:
    rngs = nnx.Rngs(params=jax.random.key(seed), frozen=jax.random.key(frozen_seed))
    graphdef, *states = nnx.split(task.init(rngs), Carry, StreamCarry, task.trainable, ...)
    return graphdef, states


def init_model(task: Task, seed: Any, frozen_seed: Any) -> dict[str, Any]:
    """{"once", "stream", "params", "frozen"}: nested dicts of a freshly drawn model."""
    _, states = _split(task, seed, frozen_seed)
    return dict(zip(("once", "stream", "params", "frozen"), map(_nested, states), strict=True))


def horizon(config: Config) -> int:
    return config.optim.decay_steps or config.steps


def make_layout(task: Task, config: Config) -> Layout:
    """Traces `task.init` once, without computing anything."""
    captured = {}

    def trace(seed: Any) -> Any:
        captured["graphdef"], states = _split(task, seed, config.frozen_seed)
        return tuple(states)

    # No array is made here: the mesh may be of devices that this machine does not have.
    states = jax.eval_shape(trace, jax.ShapeDtypeStruct((), jnp.uint32))
    names = ("once", "stream", "params", "frozen")
    templates = {name: _flat(state) for name, state in zip(names, states, strict=True)}
    params = nest({path: var.get_value() for path, var in templates["params"].items()})

    def init(params: Any) -> Any:
        hparams = {name: jnp.float32(0) for name in LOOP_HPARAMS}
        return make_tx(config, hparams, jnp.int32(0)).init(params)

    opt = jax.eval_shape(init, params)
    return Layout(captured["graphdef"], templates, opt)


def make_tx(
    config: Config, hparams: dict[str, Any], step: Any
) -> optax.GradientTransformationExtraArgs:
    return optim_lib.make_tx(config.optim, hparams, step, horizon(config))


def make_hparams(task: Task, configs: list[Config], lanes: bool) -> dict[str, Any]:
    """Name -> value (or a value a lane) of what is traced instead of compiled in.

    "weight_decay" is left out where it is 0 in all of them: the update need not read parameters.
    """
    out = {}
    for name, field in (LOOP_HPARAMS | task.hparams).items():
        values = [get_field(c, field) for c in configs]
        if name == "weight_decay" and not any(values):
            continue
        dtype = (
            jnp.uint32
            if name == "seed"
            else jnp.int32
            if isinstance(values[0], int)
            else jnp.float32
        )
        out[name] = jnp.asarray(values if lanes else values[0], dtype)
    # Not a lane's choice by itself: its data follow (see Feed).
    seeds = [c.data.seed for c in configs]
    out["data_seed"] = jnp.asarray(seeds if lanes else seeds[0], jnp.uint32)
    return out


def make_state(task: Task, config: Config, hparams: dict[str, Any], lanes: int = 0) -> State:
    """A state from scratch (trace it under jit); with lanes, all but "step" has a lane axis."""

    def one(seed: Any) -> State:
        model = init_model(task, seed, config.frozen_seed)
        params = model["params"]
        with jax.numpy_dtype_promotion("standard"):
            opt = make_tx(config, {"lr": jnp.float32(0)}, jnp.int32(0)).init(params)
        return {
            "bad": jnp.int32(0),
            "params": params,
            "ema": params if config.optim.ema else {},
            "carry": {"once": model["once"], "stream": model["stream"]},
            "opt": optim_lib.pack(opt),
        }

    state = jax.vmap(one)(hparams["seed"]) if lanes else one(hparams["seed"])
    return {"step": jnp.int32(0), **state}


def state_sharding(abstract: State, mesh: Mesh, rules: tuple, lanes: int = 0) -> State:
    """Shardings of a whole state."""
    out = {
        name: sharding_lib.infer_sharding(tree, mesh, rules, lanes=bool(lanes) and name != "step")
        for name, tree in abstract.items()
    }
    rows = sharding_lib.batch_sharding(mesh, leading=1 if lanes else 0)
    out["carry"]["stream"] = jax.tree.map(lambda _: rows, abstract["carry"]["stream"])
    return out


def abstract_state(task: Task, config: Config, mesh: Mesh, lanes: int = 0) -> State:
    """The state as ShapeDtypeStructs with shardings; nothing is materialised."""

    def make() -> State:
        hparams = make_hparams(task, [config] * max(lanes, 1), bool(lanes))
        return make_state(task, config, hparams, lanes)

    shapes = jax.eval_shape(make)
    shardings = state_sharding(shapes, mesh, task.sharding_rules, lanes)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
