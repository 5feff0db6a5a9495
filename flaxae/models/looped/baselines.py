"""What a statistician would do with the same prompt: the errors that a model is held against.

Each takes a batch of prompts of k points and a query: (xs (B, k, d), ys (B, k), query (B, d)) ->
predictions (B,). Those that scikit-learn has, and that cannot be vectorised, are scikit-learn's.
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
    """The least-squares fit, of smallest norm where there are fewer points than dimensions."""
    weights = jnp.einsum("bdk,bk->bd", jnp.linalg.pinv(xs), ys)
    return jnp.einsum("bd,bd->b", query, weights)


def ridge(
    xs: Float[Array, "B k d"], ys: Float[Array, "B k"], query: Float[Array, "B d"],
    penalty: float = NOISE**2,
) -> Float[Array, " B"]:  # fmt: skip
    """Ridge regression; with penalty = the noise's variance the best answer for w ~ N(0, I)."""
    gram = jnp.einsum("bkd,bke->bde", xs, xs)
    gram = gram + penalty * jnp.eye(xs.shape[-1], dtype=xs.dtype)[None]
    weights = jnp.linalg.solve(gram, jnp.einsum("bkd,bk->bd", xs, ys)[..., None])[..., 0]
    return jnp.einsum("bd,bd->b", query, weights)


def averaging(
    xs: Float[Array, "B k d"], ys: Float[Array, "B k"], query: Float[Array, "B d"]
) -> Float[Array, " B"]:
    """W = the mean of y x."""
    weights = jnp.mean(xs * ys[..., None], axis=1)
    return jnp.einsum("bd,bd->b", query, weights)


def nearest(
    xs: Float[Array, "B k d"], ys: Float[Array, "B k"], query: Float[Array, "B d"],
    neighbours: int = 3,
) -> Float[Array, " B"]:  # fmt: skip
    """The mean y of the 3 nearest points (of all, where there are fewer)."""
    distance = jnp.sum(jnp.square(xs - query[:, None]), axis=-1)
    _, index = jax.lax.top_k(-distance, min(neighbours, xs.shape[1]))
    return jnp.mean(jnp.take_along_axis(ys, index, axis=1), axis=1)


@partial(jax.jit, static_argnames=("sweeps",))
def lasso(
    xs: Float[Array, "B k d"], ys: Float[Array, "B k"], query: Float[Array, "B d"],
    penalty: float = 0.01, sweeps: int = 300,
) -> Float[Array, " B"]:  # fmt: skip
    """The lasso by coordinate descent: |y - X w|^2 / 2k + penalty |w|_1, no intercept."""
    k, dims = xs.shape[1:]
    square = jnp.mean(jnp.square(xs), axis=1)  # (B, d)

    def one(i: Any, carry: Any) -> Any:
        weights, rest = carry
        j = i % dims
        x, w = xs[:, :, j], weights[:, j]
        target = jnp.sum(x * rest, axis=1) / k + square[:, j] * w
        new = jnp.sign(target) * jnp.maximum(jnp.abs(target) - penalty, 0.0)
        new = new / jnp.maximum(square[:, j], 1e-12)
        return weights.at[:, j].set(new), rest - x * (new - w)[:, None]

    start = jnp.zeros((xs.shape[0], dims), xs.dtype), ys
    weights, _ = jax.lax.fori_loop(0, sweeps * dims, one, start)
    return jnp.einsum("bd,bd->b", query, weights)


@partial(jax.jit, static_argnames=("hidden", "steps"))
def network(
    xs: Float[Array, "B k d"], ys: Float[Array, "B k"], query: Float[Array, "B d"],
    hidden: int = 100, steps: int = 1000, lr: float = 5e-3, seed: int = 0,
) -> Float[Array, " B"]:  # fmt: skip
    """A two-layer ReLU network fitted to each prompt by full-batch Adam."""
    import optax

    rows, _, dims = xs.shape
    first, second = (
        jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), shape, jnp.float32)
        for i, shape in enumerate([(rows, dims, hidden), (rows, hidden)])
    )
    params = {"first": first * dims**-0.5, "second": second * hidden**-0.5}

    def answer(p: Any, x: Array) -> Array:
        return jnp.einsum("bnh,bh->bn", jax.nn.relu(jnp.einsum("bnd,bdh->bnh", x, p["first"])),
                          p["second"])  # fmt: skip

    def loss(p: Any) -> Array:
        return jnp.sum(jnp.mean(jnp.square(answer(p, xs) - ys), axis=1))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        tx = optax.adam(lr)

        def one(_: Any, carry: Any) -> Any:
            p, state = carry
            updates, state = tx.update(jax.grad(loss)(p), state)
            return jax.tree.map(jnp.add, p, updates), state

        params, _ = jax.lax.fori_loop(0, steps, one, (params, tx.init(params)))
    return answer(params, query[:, None])[:, 0]


def _each(make: Callable[[], Any]) -> Baseline:
    """A scikit-learn estimator, fitted to each prompt on the host."""

    def predict(xs: Any, ys: Any, query: Any) -> np.ndarray:
        rows = zip(np.asarray(xs), np.asarray(ys), np.asarray(query), strict=True)
        return np.asarray([make().fit(x, y).predict(q[None])[0] for x, y, q in rows], np.float32)

    return predict


def greedy_tree(xs: Any, ys: Any, query: Any) -> np.ndarray:
    """A decision tree grown greedily, as scikit-learn does by default."""
    from sklearn.tree import DecisionTreeRegressor

    return _each(lambda: DecisionTreeRegressor(random_state=0))(xs, ys, query)


def boosting(xs: Any, ys: Any, query: Any) -> np.ndarray:
    """Gradient boosting: scikit-learn's, 50 trees of depth 4, learning rate .1."""
    from sklearn.ensemble import GradientBoostingRegressor

    return _each(lambda: GradientBoostingRegressor(n_estimators=50, max_depth=4, random_state=0))(
        xs, ys, query
    )


def baselines(problem: Problem) -> dict[str, Baseline]:
    """Name -> baseline, those that make sense for a class of functions."""
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
