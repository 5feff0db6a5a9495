"""Regression problems, drawn on the device: what a model learns in its context.

The classes of functions are those of Garg et al. 2022 and of arXiv 2311.12424. A problem's error is
stated over the variance of y (`scale`): d for linear regression, so that 1 is what answering 0
gets.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

NOISE = 0.1  # standard deviation, noisy linear regression
NONZERO = 3  # weights of sparse linear regression
HIDDEN = 100  # of the two-layer network
DEPTH = 4  # of the decision tree


class Problem(enum.Enum):
    LINEAR = "linear"
    NOISY = "noisy"
    SPARSE = "sparse"
    QUADRATIC = "quadratic"
    RELU = "relu"
    TREE = "tree"
    TABLE = "table"  # tables from local files


class Drawn(NamedTuple):
    """A batch of problems: all points of a row are of one function."""

    xs: Float[Array, "B n d"]
    ys: Float[Array, "B n"]


def inputs(
    key: Key[Array, ""], rows: int, points: int, dims: int, active: Array | int | None = None
) -> Float[Array, "B n d"]:
    """X ~ N(0, I), 0 from dimension `active` on (a curriculum; may be traced)."""
    xs = jax.random.normal(key, (rows, points, dims), jnp.float32)
    if active is None:
        return xs
    return jnp.where((jnp.arange(dims) < active)[None, None], xs, 0.0)


def linear_weights(key: Key[Array, ""], rows: int, dims: int) -> Float[Array, "B d"]:
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
    """A full binary tree: a node asks for the sign of one coordinate, a leaf's value is N(0, 1)."""
    rows, _, dims = xs.shape
    nodes = 2**DEPTH - 1
    coordinate = jax.random.randint(key, (rows, nodes), 0, dims)
    leaves = jax.random.normal(jax.random.fold_in(key, 1), (rows, nodes + 1), jnp.float32)
    node = jnp.zeros(xs.shape[:2], jnp.int32)
    for _ in range(DEPTH):
        asked = jnp.take_along_axis(coordinate, node, axis=1)  # (B, n)
        value = jnp.take_along_axis(xs, asked[..., None], axis=2)[..., 0]
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
    """The variance of y, noise left out: what errors are divided by.

    Args:
        problem: what y is of x.
        dims: of x.
        active: of them are not 0 (see `inputs`); None: all.
    """
    varying = float(dims) if active is None else jnp.asarray(active).astype(jnp.float32)
    match problem:
        case Problem.SPARSE:  # its weights may stand at dimensions that are 0
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
) -> Drawn:
    """A batch of problems.

    Args:
        problem: the class of functions; not TABLE (see `tables`).
        key: drawn from.
        rows, points, dims: B, n, d.
        active: dimensions that are not 0; None: all.

    Returns:
        xs (B, n, d) and ys (B, n).
    """
    function_key, input_key = jax.random.split(key)
    xs = inputs(input_key, rows, points, dims, active)
    return Drawn(xs, FUNCTIONS[problem](function_key, xs))
