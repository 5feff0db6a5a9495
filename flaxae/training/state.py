"""The state of a run: its values from scratch, its shapes and its shardings."""

from typing import Any, Generic, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from flaxae.config import Config
from flaxae.config.horizon import horizon
from flaxae.machine import sharding as sharding_lib
from flaxae.task import Task
from flaxae.training import optim as optim_lib
from flaxae.training.hparams import make_hparams
from flaxae.training.layout import Layout, init_model

Leaf = TypeVar("Leaf")


class StateTree(TypedDict, Generic[Leaf]):
    """A tree with the structure of a run's state; all dicts have string keys and no empty leaves.

    Attributes:
        step: the number of steps taken.
        bad: the number of steps that were not finite and changed nothing.
        params: the trained parameters, nested dicts.
        ema: their moving average, {} if the config has none.
        carry: {"once": Carry variables, "stream": StreamCarry variables}.
        opt: the optimizer's state (see `optim.pack`).
    """

    step: Leaf
    bad: Leaf
    params: dict[str, Any]
    ema: dict[str, Any]
    carry: dict[str, Any]
    opt: dict[str, Any]


State = StateTree[Array]
Shapes = StateTree[jax.ShapeDtypeStruct]
Shardings = StateTree[NamedSharding]


def make_tx(
    config: Config, hparams: dict[str, Any], step: Any
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer of one step (see `optim.make_tx`)."""
    return optim_lib.make_tx(config.optim, hparams, step, horizon(config))


def optimizer_template(config: Config, layout: Layout) -> Any:
    """Return the abstract optimizer state of one lane, for its tree structure."""

    def init(params: Any) -> Any:
        return make_tx(config, {"lr": jnp.float32(0)}, jnp.int32(0)).init(params)

    return jax.eval_shape(init, layout.shapes("params"))


def make_state(task: Task, config: Config, hparams: dict[str, Any], lanes: int = 0) -> State:
    """Make a state from scratch. Call it under `jax.jit`.

    Args:
        task: the run's task.
        config: the run's config.
        hparams: the traced values, with a lane axis if there are lanes.
        lanes: the number of lanes; 0: a single run.

    Returns:
        The state; with lanes, all but "step" has a leading lane axis.
    """

    def one(seed: Array) -> dict[str, Any]:
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
    return State(step=jnp.int32(0), **state)


def state_sharding(shapes: Shapes, mesh: Mesh, rules: tuple, lanes: int = 0) -> Shardings:
    """Return the shardings of a whole state, optimizer moments included."""
    out: Any = {
        name: sharding_lib.infer_sharding(tree, mesh, rules, lanes=bool(lanes) and name != "step")
        for name, tree in shapes.items()
    }
    rows = sharding_lib.batch_sharding(mesh, leading=1 if lanes else 0)
    out["carry"]["stream"] = jax.tree.map(lambda _: rows, shapes["carry"]["stream"])
    return out


def abstract_state(task: Task, config: Config, mesh: Mesh, lanes: int = 0) -> Shapes:
    """Return the state as ShapeDtypeStructs with shardings; no array is made."""

    def make() -> State:
        hparams = make_hparams(task, [config] * max(lanes, 1), bool(lanes))
        return make_state(task, config, hparams, lanes)

    shapes: Any = jax.eval_shape(make)
    shardings = state_sharding(shapes, mesh, task.sharding_rules, lanes)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def shardings_of(shapes: Shapes) -> Shardings:
    """Return the shardings of an abstract state."""
    return jax.tree.map(lambda x: x.sharding, shapes)
