"""The train and evaluation steps as pure functions over plain dicts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxae import optim as optim_lib
from flaxae import sharding as sharding_lib
from flaxae.config import Config, get_field
from flaxae.task import Carry, Context, StreamCarry, Task

State = dict[str, Any]
LOOP_HPARAMS = {"lr": "optim.lr", "weight_decay": "optim.weight_decay", "seed": "seed"}


def nest(flat: dict[tuple, Any]) -> dict[str, Any]:
    """{("a", 0): x} -> {"a": {"0": x}}."""
    out: dict[str, Any] = {}
    for path, value in flat.items():
        node = out
        for part in path[:-1]:
            node = node.setdefault(str(part), {})
        node[str(path[-1])] = value
    return out


def lookup(tree: dict[str, Any], path: tuple) -> Any:
    for part in path:
        tree = tree[str(part)]
    return tree


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
        return _tx(config, hparams, jnp.int32(0)).init(params)

    opt = jax.eval_shape(init, params)
    return Layout(captured["graphdef"], templates, opt)


def _tx(
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
            opt = _tx(config, {"lr": jnp.float32(0)}, jnp.int32(0)).init(params)
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


def split_rows(tree: Any, parts: int) -> Any:
    """(B, ...) -> (parts, B / parts, ...), strided, so that each device keeps its own rows."""
    return jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1), tree
    )


def join_rows(tree: Any) -> Any:
    """The inverse of `split_rows`."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)


def make_update(task: Task, config: Config, layout: Layout) -> Callable:
    """One update of one lane: (its state, frozen, batch, hparams) -> (state, metrics)."""

    def loss_fn(params: Any, carry: Any, frozen: Any, batch: Any, ctx: Context) -> Any:
        model = layout.merge(params, carry, frozen)
        loss = task.loss(model, batch, ctx)
        metrics = {"loss": (loss.total, loss.weight), **loss.metrics}
        return loss.total, (loss.weight, metrics, layout.carry_of(model))

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def sums(state: State, frozen: Any, batch: Any, ctx: Context) -> Any:
        """Sums over all micro-batches: gradients, weight, metrics, and the carry after them."""

        def one(carry: Any, micro: Any, index: Any) -> Any:
            at = dataclasses.replace(ctx, key=jax.random.fold_in(ctx.key, index))
            (_, (weight, metrics, carry)), grads = grad_fn(
                state["params"], carry, frozen, micro, at
            )
            return carry, (grads, weight, metrics)

        if config.accumulate == 1:
            return one(state["carry"], batch, 0)
        n = config.accumulate
        micro = (split_rows(batch, n), split_rows(state["carry"]["stream"], n), jnp.arange(n))
        shapes = jax.eval_shape(
            lambda once, m: one({"once": once, "stream": m[1]}, m[0], m[2])[1],
            state["carry"]["once"],
            jax.tree.map(lambda x: x[0], micro),
        )
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def body(acc: Any, m: Any) -> Any:
            once, total = acc
            carry, new = one({"once": once, "stream": m[1]}, m[0], m[2])
            return (carry["once"], jax.tree.map(jnp.add, total, new)), carry["stream"]

        (once, total), stream = jax.lax.scan(body, (state["carry"]["once"], zeros), micro)
        return {"once": once, "stream": join_rows(stream)}, total

    def update(state: State, frozen: Any, batch: Any, hparams: dict[str, Any]) -> Any:
        step = state["step"]
        key = jax.random.fold_in(jax.random.key(hparams["seed"]), step)
        ctx = Context(key, step, hparams=hparams, train=True, sharding_rules=task.sharding_rules)
        carry, (grads, weight, metrics) = sums(state, frozen, batch, ctx)
        # A batch of nothing but padding has weight 0: its step is no step, not a NaN.
        inverse = 1 / jnp.maximum(weight, 1e-30)
        # Of the sums: the mean gradients need not be held then.
        grad_norm = optax.global_norm(grads) * inverse
        grads = jax.tree.map(lambda g: g * inverse, grads)
        if hasattr(task, "transform_grads"):
            grads = task.transform_grads(grads, state, ctx)  # pyright: ignore
            grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(metrics["loss"][0]) & jnp.isfinite(grad_norm)
        # A run (or lane) past its bad steps stays as it is, until the loop has noticed.
        good = finite & (state["bad"] <= config.max_bad_steps)
        new = {**state, "carry": carry, "step": step + 1}
        with jax.numpy_dtype_promotion("standard"):
            # What `make_hparams` leaves out is 0, whatever the base config of the lanes says.
            tx = _tx(config, {"weight_decay": 0.0} | hparams, step)
            opt = optim_lib.unpack(state["opt"], layout.opt)
            updates, opt = tx.update(grads, opt, state["params"], norm=grad_norm, good=good)
        new["opt"] = opt = optim_lib.pack(opt)
        new["params"] = jax.tree.map(lambda p, u: p + u.astype(p.dtype), state["params"], updates)
        if config.optim.ema:
            # The average of few steps is of those steps, not of the initialisation.
            t = step.astype(jnp.float32)
            decay = jnp.minimum(config.optim.ema, (1 + t) / (10 + t))
            new["ema"] = jax.tree.map(
                lambda e, p: (decay * e + (1 - decay) * p).astype(e.dtype),
                state["ema"],
                new["params"],
            )
        if hasattr(task, "after_update"):
            new = task.after_update(new, ctx)  # pyright: ignore
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
        kept["opt"] = jax.tree.map(  # kept already, but for what the task has changed
            lambda a, b, own: own if a is own else jnp.where(good, a, b),
            new["opt"],
            state["opt"],
            opt,
        )
        kept["step"] = step + 1
        kept["bad"] = state["bad"] + (~finite).astype(jnp.int32)
        out = {k: s / jnp.maximum(w, 1e-30) for k, (s, w) in metrics.items() if s.ndim == 0}
        out |= {
            "grad_norm": grad_norm,
            "param_norm": optax.global_norm(kept["params"]),
            "update_norm": jnp.where(good, optax.global_norm(updates), 0.0),
            "lr": optim_lib.learning_rate(config.optim, hparams["lr"], step, horizon(config)),
            "bad": kept["bad"],
            "finite": finite,
        }
        return kept, out

    return update


def make_train_step(
    task: Task,
    config: Config,
    layout: Layout,
    shardings: State,
    lanes: int = 0,
    lane_batches: bool = False,
) -> Callable:
    """The jitted step.

    Args:
        shardings: of the state; pins the outputs, or the second call would compile again.
        lanes: size of the lane axis; 0: none.
        lane_batches: batches have a lane axis too (lanes with data of their own).
    Returns:
        (state, frozen, batch, hparams) -> (state, metrics). The state is donated; metrics have a
        leading axis of `steps_per_call` (the batch too, where that is above 1), then the lanes'.
    """
    update = make_update(task, config, layout)
    if lanes:
        axes = {name: None if name == "step" else 0 for name in shardings}
        in_axes = (axes, None, 0 if lane_batches else None, 0)
        update = jax.vmap(update, in_axes=in_axes, out_axes=(axes, 0), axis_size=lanes)
    n = config.steps_per_call

    def train_step(state: State, frozen: Any, batch: Any, hparams: dict[str, Any]) -> Any:
        if n == 1:
            state, metrics = update(state, frozen, batch, hparams)
            return state, jax.tree.map(lambda x: x[None], metrics)
        return jax.lax.scan(lambda s, b: update(s, frozen, b, hparams), state, batch, length=n)

    mesh = shardings["step"].mesh
    return jax.jit(
        train_step, donate_argnums=0, out_shardings=(shardings, NamedSharding(mesh, P()))
    )


def make_eval_step(
    task: Task, layout: Layout, mesh: Mesh, lanes: int = 0, lane_batches: bool = False
) -> tuple[Callable, Callable]:
    """The jitted evaluation step.

    Returns:
        (sums, params, carry, frozen, batch, hparams, step, index) -> (sums, carry), and a function
        of all but `sums` that gives the sums to start from. Keys come from
        `data.seed`, so that an evaluation does not depend on the run's own seed.
    """

    def one(
        params: Any, carry: Any, frozen: Any, batch: Any, hparams: Any, step: Any, index: Any
    ) -> Any:
        key = jax.random.fold_in(jax.random.key(hparams["data_seed"]), index)
        model = layout.merge(params, carry, frozen)
        ctx = Context(key, step, hparams=hparams, train=False, sharding_rules=task.sharding_rules)
        sums = task.eval_step(model, batch, ctx)
        return sums, layout.carry_of(model)

    if lanes:
        one = jax.vmap(
            one, in_axes=(0, 0, None, 0 if lane_batches else None, 0, None, None), axis_size=lanes
        )

    def eval_step(sums: Any, *args: Any) -> Any:
        new, carry = one(*args)
        return jax.tree.map(jnp.add, sums, new), carry

    def zeros(*args: Any) -> Any:
        shapes = jax.eval_shape(one, *args)[0]
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    everywhere = NamedSharding(mesh, P())
    return jax.jit(eval_step, out_shardings=(everywhere, None)), jax.jit(
        zeros, out_shardings=everywhere
    )
