"""Regression problems that a model learns in its context, drawn on the device.

The classes of functions are those of Garg et al. 2022 and of arXiv 2311.12424. Errors are divided
by the variance of y (`scale`), which is d for linear regression: predicting 0 has error 1.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

NOISE = 0.1  # standard deviation in noisy linear regression
NONZERO = 3  # nonzero weights of sparse linear regression
HIDDEN = 100  # hidden units of the two-layer network
DEPTH = 4  # depth of the decision tree


class Problem(enum.Enum):
    """A class of functions."""

    LINEAR = "linear"
    NOISY = "noisy"
    SPARSE = "sparse"
    QUADRATIC = "quadratic"
    RELU = "relu"
    TREE = "tree"
    TABLE = "table"  # tables from local files


class ProblemBatch(NamedTuple):
    """A batch of problems; all points of a row belong to one function."""

    xs: Float[Array, "B n d"]
    ys: Float[Array, "B n"]


def inputs(
    key: Key[Array, ""], rows: int, points: int, dims: int, active: Array | int | None = None
) -> Float[Array, "B n d"]:
    """Draw x ~ N(0, I).

    Args:
        key: random key.
        rows: B.
        points: n.
        dims: d.
        active: number of dimensions that are not 0 (a curriculum; may be traced); None: all.

    Returns:
        x, (B, n, d).
    """
    xs = jax.random.normal(key, (rows, points, dims), jnp.float32)
    if active is None:
        return xs
    return jnp.where((jnp.arange(dims) < active)[None, None], xs, 0.0)


def linear_weights(key: Key[Array, ""], rows: int, dims: int) -> Float[Array, "B d"]:
    """Draw the weights of linear functions from N(0, I)."""
    return jax.random.normal(key, (rows, dims), jnp.float32)


def _linear(key: Array, xs: Array) -> Array:
    return jnp.einsum("bnd,bd->bn", xs, linear_weights(key, xs.shape[0], xs.shape[-1]))


def _noisy(key: Array, xs: Array) -> Array:
    noise = jax.random.normal(jax.random.fold_in(key, 1), xs.shape[:2], jnp.float32)
    return _linear(key, xs) + NOISE * noise


def _sparse(key: Array, xs: Array) -> Array:
    rows, _, dims = xs.shape
    order = jax.random.uniform(jax.random.fold_in(key, 1), (rows, dims), jnp.float32)
    chosen = jnp.argsort(jnp.argsort(order, axis=-1), axis=-1) < NONZERO
    return jnp.einsum("bnd,bd->bn", xs, jnp.where(chosen, linear_weights(key, rows, dims), 0.0))


def _quadratic(key: Array, xs: Array) -> Array:
    return _linear(key, jnp.square(xs)) * 3**-0.5  # E x^4 = 3


def _relu(key: Array, xs: Array) -> Array:
    rows, _, dims = xs.shape
    first = jax.random.normal(key, (rows, dims, HIDDEN), jnp.float32)
    second = jax.random.normal(jax.random.fold_in(key, 1), (rows, HIDDEN), jnp.float32)
    hidden = jax.nn.relu(jnp.einsum("bnd,bdh->bnh", xs, first))
    return jnp.einsum("bnh,bh->bn", hidden, second) * (2 / HIDDEN) ** 0.5


def _tree(key: Array, xs: Array) -> Array:
    """Evaluate full binary trees: a node tests the sign of one coordinate, leaves are N(0, 1)."""
    rows, _, dims = xs.shape
    nodes = 2**DEPTH - 1
    coordinate = jax.random.randint(key, (rows, nodes), 0, dims)
    leaves = jax.random.normal(jax.random.fold_in(key, 1), (rows, nodes + 1), jnp.float32)
    node = jnp.zeros(xs.shape[:2], jnp.int32)
    for _ in range(DEPTH):
        tested = jnp.take_along_axis(coordinate, node, axis=1)  # (B, n)
        value = jnp.take_along_axis(xs, tested[..., None], axis=2)[..., 0]
        node = 2 * node + 1 + (value > 0).astype(jnp.int32)
    return jnp.take_along_axis(leaves, node - nodes, axis=1)


FUNCTIONS: dict[Problem, Callable[[Array, Array], Array]] = {
    Problem.LINEAR: _linear,
    Problem.NOISY: _noisy,
    Problem.SPARSE: _sparse,
    Problem.QUADRATIC: _quadratic,
    Problem.RELU: _relu,
    Problem.TREE: _tree,
}


def scale(problem: Problem, dims: int, active: Array | int | None = None) -> Any:
    """Return the variance of y without noise, by which errors are divided.

    Args:
        problem: class of functions.
        dims: d.
        active: number of dimensions that are not 0 (see `inputs`); None: all.

    Returns:
        The variance.
    """
    varying = float(dims) if active is None else jnp.asarray(active).astype(jnp.float32)
    match problem:
        case Problem.SPARSE:  # nonzero weights may belong to dimensions that are 0
            return varying * (NONZERO / dims)
        case Problem.TREE | Problem.TABLE:
            return 1.0
    return varying


def draw(
    problem: Problem,
    key: Key[Array, ""],
    rows: int,
    points: int,
    dims: int,
    active: Array | int | None = None,
) -> ProblemBatch:
    """Draw a batch of problems.

    Args:
        problem: class of functions; not TABLE (see `tables`).
        key: random key.
        rows: B.
        points: n.
        dims: d.
        active: number of dimensions that are not 0; None: all.

    Returns:
        xs (B, n, d) and ys (B, n).
    """
    function_key, input_key = jax.random.split(key)
    xs = inputs(input_key, rows, points, dims, active)
    return ProblemBatch(xs, FUNCTIONS[problem](function_key, xs))
