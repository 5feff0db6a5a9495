"""Statistical baselines for the same prompts, with which a model's errors are compared.

Each takes a batch of prompts of k points and a query: (xs (B, k, d), ys (B, k), query (B, d)) ->
predictions (B,). Methods that cannot be vectorised are scikit-learn's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flaxae.models.looped.problems import NOISE, Problem

Baseline = Callable[[Any, Any, Any], Any]


def least_squares(
    xs: Float[Array, "B k d"], ys: Float[Array, "B k"], query: Float[Array, "B d"]
) -> Float[Array, " B"]:
    """Predict by least squares (by the smallest solution if there are fewer points than d)."""
    weights = jnp.einsum("bdk,bk->bd", jnp.linalg.pinv(xs), ys)
    return jnp.einsum("bd,bd->b", query, weights)


def ridge(
    xs: Float[Array, "B k d"],
    ys: Float[Array, "B k"],
    query: Float[Array, "B d"],
    penalty: float = NOISE**2,
) -> Float[Array, " B"]:
    """Predict by ridge regression, optimal for w ~ N(0, I) if the penalty is the noise variance."""
    gram = jnp.einsum("bkd,bke->bde", xs, xs)
    gram = gram + penalty * jnp.eye(xs.shape[-1], dtype=xs.dtype)[None]
    weights = jnp.linalg.solve(gram, jnp.einsum("bkd,bk->bd", xs, ys)[..., None])[..., 0]
    return jnp.einsum("bd,bd->b", query, weights)


def averaging(
    xs: Float[Array, "B k d"], ys: Float[Array, "B k"], query: Float[Array, "B d"]
) -> Float[Array, " B"]:
    """Predict with weights w = mean of y x."""
    weights = jnp.mean(xs * ys[..., None], axis=1)
    return jnp.einsum("bd,bd->b", query, weights)


def nearest(
    xs: Float[Array, "B k d"],
    ys: Float[Array, "B k"],
    query: Float[Array, "B d"],
    neighbours: int = 3,
) -> Float[Array, " B"]:
    """Predict the mean y of the nearest points (of all points if there are fewer)."""
    distance = jnp.sum(jnp.square(xs - query[:, None]), axis=-1)
    _, index = jax.lax.top_k(-distance, min(neighbours, xs.shape[1]))
    return jnp.mean(jnp.take_along_axis(ys, index, axis=1), axis=1)


@partial(jax.jit, static_argnames=("sweeps",))
def lasso(
    xs: Float[Array, "B k d"],
    ys: Float[Array, "B k"],
    query: Float[Array, "B d"],
    penalty: float = 0.01,
    sweeps: int = 300,
) -> Float[Array, " B"]:
    """Predict by the lasso: coordinate descent on |y - X w|^2 / 2k + penalty |w|_1."""
    k, dims = xs.shape[1:]
    square = jnp.mean(jnp.square(xs), axis=1)  # (B, d)

    def update(i: Any, carry: Any) -> Any:
        weights, rest = carry
        j = i % dims
        x, w = xs[:, :, j], weights[:, j]
        target = jnp.sum(x * rest, axis=1) / k + square[:, j] * w
        new = jnp.sign(target) * jnp.maximum(jnp.abs(target) - penalty, 0.0)
        new = new / jnp.maximum(square[:, j], 1e-12)
        return weights.at[:, j].set(new), rest - x * (new - w)[:, None]

    start = jnp.zeros((xs.shape[0], dims), xs.dtype), ys
    weights, _ = jax.lax.fori_loop(0, sweeps * dims, update, start)
    return jnp.einsum("bd,bd->b", query, weights)


@partial(jax.jit, static_argnames=("hidden", "steps"))
def network(
    xs: Float[Array, "B k d"],
    ys: Float[Array, "B k"],
    query: Float[Array, "B d"],
    hidden: int = 100,
    steps: int = 1000,
    lr: float = 5e-3,
    seed: int = 0,
) -> Float[Array, " B"]:
    """Predict by a two-layer ReLU network, fitted to each prompt by full-batch Adam."""
    import optax

    rows, _, dims = xs.shape
    first, second = (
        jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), shape, jnp.float32)
        for i, shape in enumerate([(rows, dims, hidden), (rows, hidden)])
    )
    params = {"first": first * dims**-0.5, "second": second * hidden**-0.5}

    def answer(p: Any, x: Array) -> Array:
        hidden = jax.nn.relu(jnp.einsum("bnd,bdh->bnh", x, p["first"]))
        return jnp.einsum("bnh,bh->bn", hidden, p["second"])

    def loss(p: Any) -> Array:
        return jnp.sum(jnp.mean(jnp.square(answer(p, xs) - ys), axis=1))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        tx = optax.adam(lr)

        def step(_: Any, carry: Any) -> Any:
            p, state = carry
            updates, state = tx.update(jax.grad(loss)(p), state)
            return jax.tree.map(jnp.add, p, updates), state

        params, _ = jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))
    return answer(params, query[:, None])[:, 0]


def _per_prompt(make: Callable[[], Any]) -> Baseline:
    """Return a baseline that fits a scikit-learn estimator to each prompt."""

    def predict(xs: Any, ys: Any, query: Any) -> np.ndarray:
        rows = zip(np.asarray(xs), np.asarray(ys), np.asarray(query), strict=True)
        return np.asarray([make().fit(x, y).predict(q[None])[0] for x, y, q in rows], np.float32)

    return predict


def greedy_tree(xs: Any, ys: Any, query: Any) -> np.ndarray:
    """Predict by a decision tree, grown greedily as scikit-learn does by default."""
    from sklearn.tree import DecisionTreeRegressor

    return _per_prompt(lambda: DecisionTreeRegressor(random_state=0))(xs, ys, query)


def boosting(xs: Any, ys: Any, query: Any) -> np.ndarray:
    """Predict by scikit-learn's gradient boosting: 50 trees of depth 4, learning rate .1."""
    from sklearn.ensemble import GradientBoostingRegressor

    baseline = _per_prompt(
        lambda: GradientBoostingRegressor(n_estimators=50, max_depth=4, random_state=0)
    )
    return baseline(xs, ys, query)


def baselines(problem: Problem) -> dict[str, Baseline]:
    """Return the baselines that make sense for a class of functions, by name."""
    simple: dict[str, Baseline] = {"3 nearest": nearest, "averaging": averaging}
    match problem:
        case Problem.NOISY:
            return {"least squares": least_squares, "ridge": ridge, **simple}
        case Problem.SPARSE:
            return {"least squares": least_squares, "lasso": lasso, **simple}
        case Problem.RELU:
            return {"least squares": least_squares, "network": network, **simple}
        case Problem.TREE:
            return {"greedy tree": greedy_tree, "boosting": boosting, "3 nearest": nearest}
        case Problem.TABLE:
            return {"ridge": partial(ridge, penalty=1.0), "boosting": boosting, **simple}
    return {"least squares": least_squares, **simple}
