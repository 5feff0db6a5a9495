"""Logistic regression by L-BFGS on many sets of features at once: layers x regularisations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from flaxae.errors import ConfigError

FLOOR = 1e-5  # standard deviation of a feature, relative to its mean, that float32 cannot resolve


class LinearProbes(NamedTuple):
    """Directions and biases of logistic regressions, in the units of the features.

    Attributes:
        weights: one direction per layer and regularisation, (L, R, D).
        bias: (L, R).
        steps: L-BFGS steps that were taken, (L, R).
        converged: True where the gradient is below the tolerance, (L, R).
    """

    weights: Float[np.ndarray, "L R D"]
    bias: Float[np.ndarray, "L R"]
    steps: Int[np.ndarray, "L R"]
    converged: Bool[np.ndarray, "L R"]

    def scores(self, x: Float[np.ndarray, "L N D"]) -> Float[np.ndarray, "L R N"]:
        """Return the log odds of label 1.

        Args:
            x: features of each layer.
        """
        found = np.einsum("lnd,lrd->lrn", np.asarray(x, np.float32), self.weights)
        return found + self.bias[:, :, None]

    def probabilities(self, x: Float[np.ndarray, "L N D"]) -> Float[np.ndarray, "L R N"]:
        """Return the probabilities of label 1."""
        return 1 / (1 + np.exp(-self.scores(x)))


def fit(
    x: Float[np.ndarray, "L N D"],
    labels: Bool[np.ndarray, "N"],
    strengths: Float[np.ndarray, " R"],
    *,
    weights: Float[np.ndarray, "N"] | None = None,
    standardise: bool = True,
    max_steps: int = 200,
    tolerance: float = 1e-4,
) -> LinearProbes:
    """Fit one logistic regression per layer and regularisation, as one program.

    It minimises sum_n weight_n log(1 + exp(-y_n z_n)) + strength / 2 |w|^2; the bias is not
    regularised. scikit-learn's C is 1 / strength.

    Args:
        x: features of each layer.
        labels: label of each example, shared by all layers.
        strengths: weights of the penalty.
        weights: weight of each example, 0 for those that are left out (of another fold); None: 1.
        standardise: whether features have mean 0 and standard deviation 1 over the examples, by
            which the penalty then acts. The result is in the original units.
        max_steps: most steps of L-BFGS.
        tolerance: largest entry of the gradient, divided by the sum of weights, at which a fit
            ends.

    Returns:
        The probes.

    Raises:
        ConfigError: if one class has no example of positive weight.
    """
    count = np.ones(len(labels), np.float32) if weights is None else np.asarray(weights, np.float32)
    labels = np.asarray(labels, bool)
    for value in (False, True):
        if not count[labels == value].sum() > 0:
            raise ConfigError(f"no example has label {value}: a probe needs both")
    # optax's line search does not pass strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = _fit(
            jnp.asarray(x, jnp.float32),
            jnp.asarray(np.where(labels, 1.0, -1.0), jnp.float32),
            jnp.asarray(strengths, jnp.float32),
            jnp.asarray(count),
            standardise,
            max_steps,
            tolerance,
        )
    return LinearProbes(*(np.asarray(part) for part in found))


def _all(
    x: Array,
    signs: Array,
    strengths: Array,
    count: Array,
    standardise: bool,
    max_steps: int,
    tolerance: float,
) -> tuple[Array, Array, Array, Array]:
    def of_layer(x: Array) -> Any:
        total = count.sum()
        mean, scale = jnp.zeros(x.shape[-1]), jnp.ones(x.shape[-1])
        if standardise:
            mean = (count @ x) / total
            scale = jnp.sqrt((count @ jnp.square(x - mean)) / total)
            # Rounding gives a constant feature a standard deviation relative to its size.
            scale = jnp.where(scale > jnp.maximum(FLOOR * jnp.abs(mean), 1e-12), scale, 1)
        inputs = (x - mean) / scale

        def of_strength(strength: Array) -> Any:
            w, b, steps, done = _solve(inputs, signs, count, strength, max_steps, tolerance)
            return w / scale, b - jnp.sum(w * mean / scale), steps, done

        return jax.vmap(of_strength)(strengths)

    return jax.vmap(of_layer)(x)


_fit = jax.jit(_all, static_argnums=(4, 5, 6))


def _solve(
    x: Float[Array, "N D"],
    signs: Float[Array, "N"],
    count: Float[Array, "N"],
    strength: Float[Array, ""],
    max_steps: int,
    tolerance: float,
) -> tuple[Array, Array, Array, Array]:
    """Return direction, bias, steps and convergence of one regression."""
    total = count.sum()

    def objective(params: tuple[Array, Array]) -> Array:
        w, b = params
        losses = jax.nn.softplus(-signs * (x @ w + b))
        return (jnp.sum(losses * count) + 0.5 * strength * jnp.sum(w * w)) / total

    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(objective)
    start = (jnp.zeros(x.shape[-1], jnp.float32), jnp.float32(0))

    def largest(state: Any) -> Array:
        grad = optax.tree.get(state, "grad")
        return jnp.maximum(jnp.max(jnp.abs(grad[0])), jnp.abs(grad[1]))

    def step(carry: Any) -> Any:
        params, state, taken = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(
            grad, state, params, value=value, grad=grad, value_fn=objective
        )
        return optax.apply_updates(params, updates), state, taken + 1

    def unfinished(carry: Any) -> Array:
        _, state, taken = carry
        return (taken == 0) | ((taken < max_steps) & (largest(state) > tolerance))

    first = (start, solver.init(start), jnp.int32(0))
    (w, b), state, taken = jax.lax.while_loop(unfinished, step, first)
    return w, b, taken, largest(state) <= tolerance
