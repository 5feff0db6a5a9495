"""Changes of a dictionary beside the optimizer's: factors, norms, thresholds, resampling."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.models.sae.config import SAEOptions, Scaling
from flaxae.models.sae.dead import RESAMPLED, clear_moments, resample
from flaxae.models.sae.options import Architecture
from flaxae.sparse_autoencoder.modules import normalised
from flaxae.task import Context
from flaxae.tree import path_name


def from_data(state: Any, batches: Iterator[Any], options: SAEOptions) -> Any:
    """Return a new run's state with the factors and the mean of the first batches' states.

    Args:
        state: the state, with or without a lane axis.
        batches: train batches.
        options: the scaling and the number of batches.
    """
    first = [
        {name: x[batch["weight"] > 0] for name, x in batch.items()}
        for batch in itertools.islice(batches, options.scaling_batches)
    ]
    inputs = np.concatenate([b["x"] for b in first])
    factors = np.ones(2, np.float32)
    factors[0] = _factor(inputs, options.scaling)
    mean = inputs.mean(0, dtype=np.float64) * factors[0]
    if "y" in first[0]:
        targets = np.concatenate([b["y"] for b in first])
        factors[1] = _factor(targets, options.scaling)
        mean = targets.mean(0, dtype=np.float64) * factors[1]
    carry = {**state["carry"]["once"]}
    carry["factors"] = _placed(factors, carry["factors"])
    carry["mean"] = _placed(mean, carry["mean"])
    state = {**state, "carry": {**state["carry"], "once": carry}}
    if options.architecture is not Architecture.TIED_BIAS:
        return state
    scaled = normalised(jnp.asarray(inputs * factors[0]), options.normaliser)
    median = geometric_median(np.asarray(scaled))
    sae = {**state["params"]["sae"]}
    sae["b_dec"] = _placed(median, sae["b_dec"])
    params = {**state["params"], "sae": sae}
    ema = state["ema"]
    if ema:
        ema = {**ema, "sae": {**ema["sae"], "b_dec": jnp.copy(sae["b_dec"])}}
    return {**state, "params": params, "ema": ema}


def _placed(value: np.ndarray, like: Any) -> Any:
    """Return a value with the shape and sharding of another; lanes have the same."""
    return jax.device_put(np.broadcast_to(value, like.shape).astype(like.dtype), like.sharding)


def _factor(x: np.ndarray, scaling: Scaling) -> float:
    """Return the constant factor of states."""
    x = x.reshape(-1, x.shape[-1]).astype(np.float64)
    if scaling is Scaling.EXPECTED_NORM:
        return float(x.shape[-1] ** 0.5 / max(np.linalg.norm(x, axis=-1).mean(), 1e-12))
    if scaling is Scaling.UNIT_MEAN_SQUARE:
        return float(1 / max(np.sqrt((x**2).mean()), 1e-12))
    return 1.0


def geometric_median(x: np.ndarray, steps: int = 50) -> np.ndarray:
    """Return the point with the least sum of distances to rows, by Weiszfeld's algorithm."""
    x = np.asarray(x, np.float64)
    point = x.mean(0)
    for _ in range(steps):
        weights = 1 / np.maximum(np.linalg.norm(x - point, axis=-1), 1e-9)
        point = (x * weights[:, None]).sum(0) / weights.sum()
    return point.astype(np.float32)


def projected(grads: Any, params: Any) -> Any:
    """Return gradients without the part of the decoder's along its rows of norm 1."""
    grad, rows = grads["sae"]["w_dec"], params["sae"]["w_dec"]
    along = jnp.sum(grad * rows, axis=-1, keepdims=True)
    return {**grads, "sae": {**grads["sae"], "w_dec": grad - along * rows}}


def constrained(state: Any, ctx: Context, options: SAEOptions) -> Any:
    """Return a state whose decoder has rows of norm 1, if wanted, and no threshold below 0.

    Dead latents are resampled when that is due.
    """
    sae = {**state["params"]["sae"]}
    if options.unit_norm:
        norms = jnp.linalg.norm(sae["w_dec"], axis=-1, keepdims=True)
        sae["w_dec"] = sae["w_dec"] / jnp.maximum(norms, 1e-12)
    if "threshold" in sae:
        sae["threshold"] = jnp.maximum(sae["threshold"], 0)
    state = {**state, "params": {**state["params"], "sae": sae}}
    if not options.resample_every:
        return state
    due = state["step"] % options.resample_every == 0
    return jax.lax.cond(due, lambda s: _resampled(s, ctx, options), lambda s: s, state)


def _resampled(state: Any, ctx: Context, options: SAEOptions) -> Any:
    """Return a state whose dead latents have new directions and no moments."""
    once, sae = {**state["carry"]["once"]}, {**state["params"]["sae"]}
    dead = once["silent"] >= options.dead_after
    initial = {"threshold": options.threshold, "r_mag": 0.0, "b_mag": 0.0}
    initial = {name: x for name, x in initial.items() if name in sae}
    names = (*RESAMPLED, *initial)
    arrays = {name: sae[name] for name in (*names, "b_dec")}
    key = ctx.at("resample").key
    new, changed = resample(arrays, dead, once["pool_x"], once["pool_loss"], key, initial)
    if options.unit_norm:
        norms = jnp.linalg.norm(new["w_dec"], axis=-1, keepdims=True)
        new["w_dec"] = new["w_dec"] / jnp.maximum(norms, 1e-12)
    once["silent"] = jnp.where(changed, 0, once["silent"])

    def cleared(path: tuple, x: Any) -> Any:
        parent, _, name = path_name(path).rpartition("/")
        moment = name in names and parent.endswith("/sae") and x.shape == sae[name].shape
        return clear_moments({name: x}, changed)[name] if moment else x

    return {
        **state,
        "params": {**state["params"], "sae": {**sae, **{n: new[n] for n in names}}},
        "carry": {**state["carry"], "once": once},
        "opt": jax.tree_util.tree_map_with_path(cleared, state["opt"]),
    }
