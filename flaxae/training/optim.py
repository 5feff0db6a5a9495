"""Schedules and optimizers from an OptimConfig; built inside the jitted step.

The learning rate and the weight decay may be traced (a sweep's lanes vary them). Schedules read the
train step that they are given, not optax's own count, which does not count skipped bad steps.
"""

import re
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from optax import contrib

from flaxae.config import OptimConfig, Optimizer, Schedule
from flaxae.errors import ConfigError
from flaxae.tree import path_name

# Norm scales and biases get no weight decay unless a group says so.
NO_DECAY = re.compile(r"(^|/)(scale|bias)$")
# Muon orthogonalises matrices that map activations to activations; tables are not such matrices.
NO_MUON = re.compile(r"(^|/)(scale|bias)$|embed|lm_head|relative|position", re.IGNORECASE)
MUON_RMS = 0.2  # RMS of AdamW's updates: one lr then suits both halves (arXiv 2502.16982, eq. 4)


def learning_rate(
    optim: OptimConfig, lr: Any, step: Int[Array, ""] | int, horizon: int
) -> Float[Array, ""]:
    """Return the learning rate of a step: linear warmup from 0, then the schedule.

    Args:
        optim: `schedule`, `warmup`, `final_lr` (as a share of lr) and `wsd_decay` are read.
        lr: the peak, a float or traced scalar.
        step: the 0-based train step, may be traced.
        horizon: the step at which linear, cosine and wsd reach final_lr; they stay there. constant
            and rsqrt do not depend on it.

    Returns:
        float32 scalar.
    """
    t = jnp.asarray(step).astype(jnp.float32)
    warmup, final = float(optim.warmup), optim.final_lr
    span = max(horizon - optim.warmup, 1)
    progress = jnp.clip((t - warmup) / span, 0.0, 1.0)
    match optim.schedule:
        case Schedule.CONSTANT:
            shape = jnp.ones_like(t)
        case Schedule.LINEAR:
            shape = 1 - (1 - final) * progress
        case Schedule.COSINE:
            shape = final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        case Schedule.WSD:  # warmup, stable, decay (arXiv 2404.06395)
            decay = max(optim.wsd_decay * horizon, 1.0)
            shape = 1 - (1 - final) * jnp.clip((t - (horizon - decay)) / decay, 0.0, 1.0)
        case Schedule.RSQRT:  # peak at the end of warmup, then as 1/sqrt(step)
            scale = max(warmup, 1.0)
            shape = jnp.sqrt(scale / jnp.maximum(t, scale))
    if optim.warmup:
        shape = shape * jnp.minimum(t / warmup, 1.0)
    return jnp.asarray(lr).astype(jnp.float32) * shape


def group_trees(groups: tuple, params: Any) -> tuple[Any, Any]:
    """Return the learning-rate and decay multipliers of every parameter.

    Args:
        groups: ((path regex, lr multiplier, decay multiplier), ...); the first match wins.
        params: nested dict; the regexes are searched in its "a/b/c" paths.

    Returns:
        Two trees of floats like `params`. Without a match: (1, 1), and (1, 0) for `scale`, `bias`.

    Raises:
        ConfigError: if a regex is not valid, or matches no parameter.
    """
    try:
        compiled = [(re.compile(regex), float(lr), float(decay)) for regex, lr, decay in groups]
    except re.error as e:
        message = f"optim.groups: {e.pattern!r} is not a regular expression ({e})"
        raise ConfigError(message) from None
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for regex, *_ in compiled:
        if not any(regex.search(name) for name in names):
            raise ConfigError(
                f"optim.groups: {regex.pattern!r} matches no parameter; "
                f"they are: {', '.join(names)}"
            )

    def multipliers(name: str) -> tuple[float, float]:
        for regex, lr, decay in compiled:
            if regex.search(name):
                return lr, decay
        return 1.0, 0.0 if NO_DECAY.search(name) else 1.0

    found = [multipliers(name) for name in names]
    treedef = jax.tree.structure(params)
    return treedef.unflatten([x for x, _ in found]), treedef.unflatten([x for _, x in found])


def _scale_matrices() -> optax.GradientTransformation:
    def one(u: Array) -> Array:
        return u * (MUON_RMS * max(u.shape[-2:]) ** 0.5)

    return optax.stateless(lambda updates, _: jax.tree.map(one, updates))


def _muon(optim: OptimConfig) -> optax.GradientTransformation:
    """Return Muon on matrices (the last two axes; one per stacked layer), Adam elsewhere."""

    def label(path: tuple, p: Array) -> str:
        return "muon" if p.ndim >= 2 and not NO_MUON.search(path_name(path)) else "adam"

    def dimensions(updates: Any) -> Any:
        return jax.tree.map(
            lambda u: contrib.MuonDimensionNumbers((u.ndim - 2,), (u.ndim - 1,)), updates
        )

    matrices = contrib.scale_by_muon(
        beta=optim.momentum, eps=optim.eps, weight_dimension_numbers=dimensions
    )
    rules: dict[Hashable, optax.GradientTransformation] = {
        "muon": optax.chain(matrices, _scale_matrices()),
        "adam": optax.scale_by_adam(optim.b1, optim.b2, optim.eps),
    }
    return optax.partition(rules, lambda params: jax.tree_util.tree_map_with_path(label, params))


def _direction(optim: OptimConfig) -> optax.GradientTransformation:
    """Return the transformation of gradients to directions, before learning rate and decay."""
    match optim.name:
        case Optimizer.ADAMW:
            return optax.scale_by_adam(optim.b1, optim.b2, optim.eps)
        case Optimizer.ADAFACTOR:
            # Without the scaling by parameter norms, so that lr has the same meaning as elsewhere.
            return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
        case Optimizer.SGD:
            return optax.trace(optim.momentum) if optim.momentum else optax.identity()
        case Optimizer.LION:
            return optax.scale_by_lion(optim.b1, optim.b2)
        case Optimizer.MUON:
            return _muon(optim)


def make_tx(
    optim: OptimConfig, hparams: dict[str, Any], step: Int[Array, ""] | int, horizon: int
) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer of one step: clip by global norm, direction, decay, learning rate.

    update = -lr(step) * lr_mult * (direction + weight_decay * decay_mult * p)

    `update` also takes `norm`, the global norm of the gradients if it is known, and `good`: if that
    is false the state stays as it was.

    Args:
        optim: the config.
        hparams: "lr" and "weight_decay" (traced or numbers), which replace the config's.
        step: the train step that the schedule reads.
        horizon: the schedule's horizon.

    Returns:
        A GradientTransformation over nested dicts of parameters; its state does not depend on
        hparams or step. Needs `params` in `update`.

    Raises:
        ConfigError: (from init and update) a group matches no parameter.
    """
    direction = _direction(optim)

    def init(params: Any) -> Any:
        group_trees(optim.groups, params)
        # optax's adam, muon and adafactor do not pass strict promotion.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return direction.init(params)

    def update(
        updates: Any, state: Any, params: Any = None, *, norm: Any = None, good: Any = None
    ) -> Any:
        if params is None:
            raise ValueError("tx.update needs params, for weight decay")
        lr_mult, decay_mult = group_trees(optim.groups, params)
        lr = learning_rate(optim, hparams.get("lr", optim.lr), step, horizon)
        decay = hparams.get("weight_decay", optim.weight_decay)
        if isinstance(decay, (int, float)) and not decay:  # not traced: the update reads no params
            decay_mult = jax.tree.map(lambda _: 0.0, decay_mult)
        weight_decay = jnp.asarray(decay, jnp.float32)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            if optim.clip_norm:
                norm = optax.tree.norm(updates) if norm is None else norm
                factor = jnp.minimum(1.0, optim.clip_norm / jnp.maximum(norm, 1e-12))
                updates = jax.tree.map(lambda g: (g * factor).astype(g.dtype), updates)
            old = state
            updates, state = direction.update(updates, state, params)
            if good is not None:
                state = jax.tree.map(lambda a, b: jnp.where(good, a, b), state, old)

            scale = jax.tree.map(lambda mult: -lr * mult, lr_mult)
            if good is not None and optim.name is Optimizer.ADAMW:
                updates = adam_updates(optim, state, scale)
            else:
                updates = jax.tree.map(jnp.multiply, updates, scale)

            def decayed(u: Array, p: Array, scale: Array, mult: float) -> Array:
                return (u + scale * weight_decay * mult * p if mult else u).astype(p.dtype)

            return jax.tree.map(decayed, updates, params, scale, decay_mult), state

    return optax.GradientTransformationExtraArgs(init, update)


def adam_updates(optim: OptimConfig, state: Any, scale: Any) -> Any:
    """Return scale * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps), like `optax.scale_by_adam`.

    It reads the new moments after the choice by `good`: a CPU's program then reads the old moments
    once and writes over them; otherwise it would copy them first. The division comes last, since
    XLA does not repeat it for each reader of the updates.

    Args:
        optim: the config.
        state: the ScaleByAdamState after the update.
        scale: tree of factors, -lr * lr_mult.
    """
    count = jnp.maximum(state.count, 1).astype(jnp.float32)  # 0 before the first good step
    first, second = (1 / (1 - b**count) for b in (optim.b1, optim.b2))
    return jax.tree.map(
        lambda m, v, s: m * (s * first) / (jnp.sqrt(v * second) + optim.eps),
        state.mu,
        state.nu,
        scale,
    )


def pack(opt_state: Any) -> dict[str, Any]:
    """Return an optimizer state as nested dicts with string keys and no empty leaves.

    Paths end in the parameter's own ("mu/encoder/kernel"), so that sharding rules match moments.
    """
    out: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        *parents, name = path_name(path).split("/")
        node = out
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = leaf
    return out


def unpack(packed: dict[str, Any], template: Any) -> Any:
    """Undo `pack`.

    Args:
        packed: the result of `pack`.
        template: an optimizer state of the same structure (abstract leaves are enough).

    Raises:
        ValueError: if `packed` lacks a leaf of the template; the message names the first one.
    """

    def leaf(path: tuple, _: Any) -> Any:
        node: Any = packed
        for part in path_name(path).split("/"):
            if not isinstance(node, dict) or part not in node:
                raise ValueError(f"the optimizer state has no {path_name(path)!r}")
            node = node[part]
        return node

    return jax.tree_util.tree_map_with_path(leaf, template)
