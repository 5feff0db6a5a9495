"""The train and evaluation steps as pure functions over plain dicts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from flaxae.config import Config
from flaxae.task import Context, Rows, Task, TransformsGrads, UpdatesState, require_loss
from flaxae.training import optim as optim_lib
from flaxae.training.layout import Layout
from flaxae.training.state import Shardings, State, horizon, make_tx, optimizer_template


def split_batch(tree: Any, parts: int) -> Any:
    """Split leaves (B, ...) into micro-batches (parts, B / parts, ...).

    A micro-batch takes every parts-th row, so that each device keeps its own rows.
    """
    return jax.tree.map(lambda x: rearrange(x, "(b parts) ... -> parts b ...", parts=parts), tree)


def join_batch(tree: Any) -> Any:
    """Undo `split_batch`: (parts, b, ...) -> (b * parts, ...)."""
    return jax.tree.map(lambda x: rearrange(x, "parts b ... -> (b parts) ..."), tree)


def make_gradients(task: Task, config: Config, layout: Layout) -> Callable:
    """Return the function that sums a batch's gradients over its micro-batches.

    Returns:
        (state, frozen, batch, ctx) -> (new carry, (gradients, weight, metrics)): gradients of the
        total loss, and sums with weights that are not divided yet.
    """

    def loss_fn(params: Any, carry: Any, frozen: Any, batch: Any, ctx: Context) -> Any:
        model = layout.merge(params, carry, frozen)
        loss = require_loss(task, task.loss(model, batch, ctx))
        metrics = {"loss": (loss.total, loss.weight), **loss.metrics}
        return loss.total, (loss.weight, metrics, layout.carry_of(model))

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def gradients(state: State, frozen: Any, batch: Any, ctx: Context) -> Any:
        def one(carry: Any, micro: Any, index: Any) -> Any:
            at = dataclasses.replace(ctx, key=jax.random.fold_in(ctx.key, index))
            (_, (weight, metrics, carry)), grads = grad_fn(
                state["params"], carry, frozen, micro, at
            )
            return carry, (grads, weight, metrics)

        if config.accumulate == 1:
            return one(state["carry"], batch, 0)
        n = config.accumulate
        micro = (split_batch(batch, n), split_batch(state["carry"]["stream"], n), jnp.arange(n))
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
        return {"once": once, "stream": join_batch(stream)}, total

    return gradients


def make_update(task: Task, config: Config, layout: Layout) -> Callable:
    """Return one update of one lane: (its state, frozen, batch, hparams) -> (state, metrics)."""
    gradients = make_gradients(task, config, layout)
    template = optimizer_template(config, layout)

    def update(
        state: State, frozen: Any, batch: Any, hparams: dict[str, Array]
    ) -> tuple[State, dict[str, Array]]:
        step = state["step"]
        key = jax.random.fold_in(jax.random.key(hparams["seed"]), step)
        ctx = Context(key, step, hparams=hparams, train=True, sharding_rules=task.sharding_rules)
        carry, (grads, weight, metrics) = gradients(state, frozen, batch, ctx)
        # A batch that contains only padding has weight 0: its gradients are 0, not NaN.
        inverse = 1 / jnp.maximum(weight, 1e-30)
        # The norm of the sums: the mean gradients then need not be kept in memory.
        grad_norm = optax.global_norm(grads) * inverse
        grads = jax.tree.map(lambda g: g * inverse, grads)
        if isinstance(task, TransformsGrads):
            grads = task.transform_grads(grads, state, ctx)
            grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(metrics["loss"][0]) & jnp.isfinite(grad_norm)
        # After too many bad steps a run (or lane) no longer changes, and the loop soon stops it.
        good = finite & (state["bad"] <= config.max_bad_steps)
        new: State = {**state, "carry": carry, "step": step + 1}
        with jax.numpy_dtype_promotion("standard"):
            # What `make_hparams` leaves out is 0, even if the lanes' base config has another value.
            tx = make_tx(config, {"weight_decay": 0.0} | hparams, step)
            opt = optim_lib.unpack(state["opt"], template)
            updates, opt = tx.update(grads, opt, state["params"], norm=grad_norm, good=good)
        new["opt"] = opt = optim_lib.pack(opt)
        new["params"] = jax.tree.map(lambda p, u: p + u.astype(p.dtype), state["params"], updates)
        if config.optim.ema:
            new["ema"] = _average(state["ema"], new["params"], config.optim.ema, step)
        if isinstance(task, UpdatesState):
            new = task.after_update(new, ctx)
        kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
        kept["opt"] = jax.tree.map(  # `tx.update` has kept it already, except for changes by a task
            lambda a, b, own: own if a is own else jnp.where(good, a, b),
            new["opt"],
            state["opt"],
            opt,
        )
        kept["step"] = step + 1
        kept["bad"] = state["bad"] + (~finite).astype(jnp.int32)
        out = {k: _mean(s, w) for k, (s, w) in metrics.items() if s.ndim == 0}
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


def _mean(total: Array, weight: Array) -> Array:
    """Return total / weight, nan where nothing was measured."""
    return jnp.where(weight == 0, jnp.nan, total / jnp.maximum(weight, 1e-30))


def _average(ema: Any, params: Any, limit: float, step: Array) -> Any:
    """Return the new moving average of the parameters."""
    # After few steps the average weighs these steps, not the initialisation.
    t = step.astype(jnp.float32)
    decay = jnp.minimum(limit, (1 + t) / (10 + t))
    return jax.tree.map(lambda e, p: (decay * e + (1 - decay) * p).astype(e.dtype), ema, params)


def make_train_step(
    task: Task,
    config: Config,
    layout: Layout,
    shardings: Shardings,
    lanes: int = 0,
    lane_batches: bool = False,
) -> Callable:
    """Make the jitted train step.

    Args:
        task: the task.
        config: the config.
        layout: the model's structure.
        shardings: the state's shardings; they pin the outputs, or the second call would compile
            again.
        lanes: the size of the lane axis; 0: none.
        lane_batches: whether batches have a lane axis too (lanes with their own data).

    Returns:
        (state, frozen, batch, hparams) -> (state, metrics). The state is donated; metrics have a
        leading axis of `steps_per_call` (the batch too, if that is above 1), then the lane axis.
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
    """Make the jitted evaluation step.

    Random keys come from `data.seed`, so that an evaluation does not depend on the run's own seed.

    Args:
        task: the task.
        layout: the model's structure.
        mesh: the mesh.
        lanes: the size of the lane axis; 0: none.
        lane_batches: whether batches have a lane axis too.

    Returns:
        The step, (sums, params, carry, frozen, batch, hparams, step, index) -> (sums, carry), and a
        function of all arguments but `sums` that returns the sums to start from. `Rows` are not
        added: those that the step returns are of its own batch.
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
        for name, value in new.items():
            if not isinstance(value, Rows):
                new[name] = jax.tree.map(jnp.add, sums[name], value)
        return new, carry

    def zeros(*args: Any) -> Any:
        shapes = jax.eval_shape(one, *args)[0]
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    everywhere = NamedSharding(mesh, P())
    return jax.jit(eval_step, out_shardings=(everywhere, None)), jax.jit(
        zeros, out_shardings=everywhere
    )
