"""Importance of features, from the factors of a trained IA3 adapter."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flaxae.errors import ConfigError, require
from flaxae.peft.apply import DEFAULT
from flaxae.peft.ia3 import IA3
from flaxae.sparse_autoencoder.importance import importance_weights

# Hook -> modules whose IA3 factors scale its features: an input of a feed-forward module.
MODULES = {"mlp_post": ("down_proj", "fc2")}


def ia3_factors(model: Any, hook: str) -> Float[np.ndarray, "L D"]:
    """Return the factors of all layers that scale the features of a hook.

    Args:
        model: with an IA3 adapter.
        hook: name of the hidden states.

    Raises:
        ConfigError: if no IA3 factor of the adapter scales them.
    """
    require(hook in MODULES, f"IA3 scales the states of {', '.join(MODULES)}, not of {hook!r}")
    adapter = _scaling(model, hook)
    if adapter is None:
        raise ConfigError(
            f"the adapter has no IA3 factors of {' or '.join(MODULES[hook])}: train one with "
            "task.adapter.method=ia3"
        )
    return np.asarray(adapter.factors[...])


def has_factors(model: Any, hook: str) -> bool:
    """Return whether the model has an IA3 adapter that scales the features of a hook."""
    return hook in MODULES and _scaling(model, hook) is not None


def _scaling(model: Any, hook: str) -> IA3 | None:
    for name in MODULES[hook]:
        module = getattr(model.blocks.mlp, name, None)
        adapter = vars(module).get("adapters", {}).get(DEFAULT) if module is not None else None
        if isinstance(adapter, IA3) and adapter.feedforward:
            return adapter
    return None


def hook_importance(model: Any, hook: str, layers: Sequence[int]) -> Float[np.ndarray, "L D"]:
    """Return |factor - 1| of the features of layers, divided by its mean in each layer.

    Args:
        model: with an IA3 adapter, which was trained on the training examples alone.
        hook: name of the hidden states.
        layers: the layers.
    """
    factors = ia3_factors(model, hook)[list(layers)]
    return np.asarray(importance_weights(jnp.asarray(factors)))
