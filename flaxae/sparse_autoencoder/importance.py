"""Weights of features by how far an IA3 adapter moves them from 1."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def importance_weights(
    factors: Float[Array, "... D"], *, per_layer: bool = True
) -> Float[Array, "... D"]:
    """Return |factor - 1| of features, divided by its mean.

    Args:
        factors: IA3's factors, with leading axes such as layers; 1 changes nothing.
        per_layer: whether each layer has mean 1, or only all together.

    Returns:
        The weights; 1 everywhere where no factor differs from 1.
    """
    distance = jnp.abs(factors - 1)
    mean = distance.mean(-1, keepdims=True) if per_layer else distance.mean()
    return jnp.where(mean > 0, distance / jnp.where(mean > 0, mean, 1), 1)


def important_features(
    weights: Float[Array, "... D"], share: float, *, per_layer: bool = True
) -> Bool[Array, "... D"]:
    """Return True for the given share of features whose weights are largest in absolute value.

    Args:
        weights: weight of each feature, of either sign.
        share: share of features to select; at least one feature is.
        per_layer: whether the share is selected in each layer, or over all.
    """
    size = jnp.abs(weights)
    rows = size.reshape((-1, size.shape[-1]) if per_layer else (1, -1))
    count = max(1, round(share * rows.shape[-1]))
    order = jnp.argsort(-rows, axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1)
    return (rank < count).reshape(weights.shape)
